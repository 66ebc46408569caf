//! Places for labels that cover neither points nor each other: for each label in turn, the nearest free one around its
//! point.

/// A rectangle in pixels, y downwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    left: i32,
    top: i32,
    width: i32,
    height: i32,
}

impl Bounds {
    /// By its upper left corner.
    pub fn new(left: i32, top: i32, width: i32, height: i32) -> Self {
        Self { left, top, width, height }
    }

    /// A square.
    pub fn around((x, y): (i32, i32), half: i32) -> Self {
        Self::new(x - half, y - half, 2 * half, 2 * half)
    }

    /// Its middle.
    pub fn centre(&self) -> (i32, i32) {
        (self.left + self.width / 2, self.top + self.height / 2)
    }

    /// Whether both share a pixel.
    pub fn meets(&self, other: &Self) -> bool {
        self.left < other.left + other.width
            && other.left < self.left + self.width
            && self.top < other.top + other.height
            && other.top < self.top + self.height
    }

    fn contains(&self, other: &Self) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && other.left + other.width <= self.left + self.width
            && other.top + other.height <= self.top + self.height
    }
}

/// Where a label goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it covers.
    pub area: Bounds,
    /// Where a line from the point ends, if the label is too far to be taken for the point's.
    pub leader: Option<(i32, i32)>,
}

/// Small squares along a line, which labels shall not cover.
pub fn along(from: (i32, i32), to: (i32, i32), taken: &mut Vec<Bounds>) {
    let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()) / 6 + 1;
    for i in 0..=steps {
        let at = (from.0 + (to.0 - from.0) * i / steps, from.1 + (to.1 - from.1) * i / steps);
        taken.push(Bounds::around(at, 2));
    }
}

/// The nearest free place around a point, within `inside`; beside the point if all is full.
pub fn place(point: (i32, i32), (width, height): (i32, i32), inside: Bounds, taken: &[Bounds]) -> Place {
    const DIRECTIONS: i32 = 24;
    let around = |radius: i32, direction: i32| {
        let angle = f64::from(direction) * std::f64::consts::TAU / f64::from(DIRECTIONS);
        // A label is wider than high: an ellipse keeps its edge at the same distance.
        let x = point.0 + (f64::from(radius + width / 2) * angle.cos()).round() as i32;
        let y = point.1 - (f64::from(radius + height / 2) * angle.sin()).round() as i32;
        (Bounds::new(x - width / 2, y - height / 2, width, height), (x, y))
    };
    let candidates = (0..40).flat_map(|ring| (0..DIRECTIONS).map(move |direction| (6 + 3 * ring, direction)));
    for (radius, direction) in candidates {
        let (area, (x, y)) = around(radius, direction);
        if inside.contains(&area) && !taken.iter().any(|other| other.meets(&area)) {
            // The line ends at the label's edge.
            let share = f64::from(radius) / f64::from(radius + width.max(height) / 2);
            let end = |from: i32, to: i32| from + (f64::from(to - from) * share).round() as i32;
            let leader = (radius > 9).then_some((end(point.0, x), end(point.1, y)));
            return Place { area, leader };
        }
    }
    Place { area: around(6, 0).0, leader: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_one_crowded_point_do_not_meet() {
        let inside = Bounds::new(0, 0, 300, 300);
        let mut taken = vec![Bounds::around((150, 150), 5)];
        for _ in 0..40 {
            let place = place((150, 150), (17, 12), inside, &taken);
            assert!(!taken.iter().any(|other| other.meets(&place.area)), "{place:?}");
            taken.push(place.area);
        }
    }

    #[test]
    fn labels_stay_inside_and_off_lines() {
        let inside = Bounds::new(0, 0, 100, 100);
        let mut taken = Vec::new();
        along((0, 0), (100, 100), &mut taken);
        let place = place((0, 0), (17, 12), inside, &taken);
        assert!(inside.contains(&place.area) && place.leader.is_some());
        assert!(!taken.iter().any(|other| other.meets(&place.area)));
    }
}
