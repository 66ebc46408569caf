//! Loss and gradients in f64 from the formula, with every similarity written out.

/// Rows, one after the other.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub values: Vec<f32>,
    pub d: usize,
}

/// Matrix and row.
pub type Place = (usize, usize);

/// weight · [ ln Σ_c exp S(anchor, c) − mean over p of S(anchor, p) ]
pub struct Term {
    pub weight: f64,
    pub anchor: Place,
    pub candidates: Vec<Place>,
    pub positives: Vec<Place>,
}

pub struct Answer {
    pub loss: f64,
    pub gradients: Vec<Vec<f64>>,
    pub scale: f64,
}

impl Matrix {
    pub fn len(&self) -> usize {
        self.values.len() / self.d
    }
}

/// S(i, k) = scale · cos(i, k), 0 with a row of zeros.
pub fn oracle(matrices: &[Matrix], terms: &[Term], scale: f64) -> Answer {
    let wide: Vec<Vec<Vec<f64>>> = matrices
        .iter()
        .map(|x| x.values.chunks(x.d).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect())
        .collect();
    let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
    let unit = |row: &Vec<f64>| -> Vec<f64> {
        let norm = norm(row);
        row.iter().map(|v| if norm == 0.0 { 0.0 } else { v / norm }).collect()
    };
    let units: Vec<Vec<Vec<f64>>> = wide.iter().map(|x| x.iter().map(unit).collect()).collect();
    let at = |(x, i): Place| &units[x][i];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut gradients: Vec<Vec<Vec<f64>>> =
        units.iter().map(|x| x.iter().map(|row| vec![0.0; row.len()]).collect()).collect();
    let (mut loss, mut dscale) = (0.0, 0.0);
    for term in terms {
        let cosines: Vec<f64> = term.candidates.iter().map(|c| dot(at(term.anchor), at(*c))).collect();
        let max = cosines.iter().fold(f64::NEG_INFINITY, |m, c| m.max(scale * c));
        let sum: f64 = cosines.iter().map(|c| (scale * c - max).exp()).sum();
        for (c, cosine) in term.candidates.iter().zip(&cosines) {
            let positive = term.positives.contains(c);
            let share = if positive { 1.0 / term.positives.len() as f64 } else { 0.0 };
            loss += term.weight * share * ((max - scale * cosine) + sum.ln());
            let w = term.weight * ((scale * cosine - max).exp() / sum - share);
            dscale += w * cosine;
            for (from, to) in [(term.anchor, *c), (*c, term.anchor)] {
                let dv = &mut gradients[to.0][to.1];
                dv.iter_mut().zip(at(from)).for_each(|(dv, v)| *dv += w * scale * v);
            }
        }
    }
    for (x, rows) in gradients.iter_mut().enumerate() {
        for (i, dv) in rows.iter_mut().enumerate() {
            let (v, norm) = (at((x, i)), norm(&wide[x][i]));
            let along = dot(v, dv);
            dv.iter_mut().zip(v).for_each(|(dv, v)| {
                *dv = if norm == 0.0 { 0.0 } else { (*dv - v * along) / norm };
            });
        }
    }
    Answer { loss, gradients: gradients.into_iter().map(|x| x.concat()).collect(), scale: dscale }
}
