//! DINO's loss: self-distillation without labels (Caron et al. 2021, arXiv:2104.14294, eq. 2 and 3, algorithm 1).
//!
//! Letters: n images, k outputs, τ temperatures of student and teacher, c the centre.

use crate::embeddings::check;
use crate::{Error, Result, validate_temperature};
use candle_core::{D, Tensor};

/// Mean cross-entropy of the student's outputs on each view with the teacher's on every other one.
///
/// `student`: outputs `[n, k]` of each view, global ones first; `teacher`: `[n, k]` of the global views alone; `centre`: `[1, k]`.
///
/// ```text
/// pₜ   = softmax((teacher_t − c)/τ_t)
/// loss = mean over views s, global views t ≠ s, images of  −Σ pₜ·log softmax(student_s/τ_s)
/// ```
///
/// Gradients reach the students alone: the teacher's outputs and the centre are detached. A scalar of the inputs' dtype.
///
/// Errors: no global view, no view beside one, shapes or dtypes that differ, n or k of 0, a temperature that
/// [`validate_temperature`] refuses.
pub fn dino(
    student: &[Tensor],
    teacher: &[Tensor],
    centre: &Tensor,
    student_temperature: f64,
    teacher_temperature: f64,
) -> Result<Tensor> {
    validate_temperature(student_temperature)?;
    validate_temperature(teacher_temperature)?;
    let Some(first) = student.first() else {
        return Err(Error::Shape { what: "student", expected: "at least two views".into(), got: vec![0] });
    };
    let (n, k) = check("student", first)?;
    if teacher.is_empty() || student.len() < 2 || teacher.len() > student.len() {
        let expected = "at least one global view, and another one".into();
        return Err(Error::Shape { what: "views", expected, got: vec![student.len(), teacher.len()] });
    }
    for (what, z) in student.iter().map(|z| ("student", z)).chain(teacher.iter().map(|z| ("teacher", z))) {
        if z.dims() != first.dims() {
            let expected = format!("{:?} as the first view's", first.dims());
            return Err(Error::Shape { what, expected, got: z.dims().to_vec() });
        }
    }
    if centre.dims() != [1, k] {
        return Err(Error::Shape {
            what: "centre",
            expected: format!("[1, {k}]"),
            got: centre.dims().to_vec(),
        });
    }
    let logs = student
        .iter()
        .map(|z| Ok(selfsup_kernels::log_softmax(&(z / student_temperature)?)?))
        .collect::<Result<Vec<Tensor>>>()?;
    let mut total: Option<Tensor> = None;
    let mut pairs = 0;
    for (t, z) in teacher.iter().enumerate() {
        let centred = (z.detach().broadcast_sub(&centre.detach())? / teacher_temperature)?;
        let p = selfsup_kernels::softmax(&centred)?;
        for (s, log) in logs.iter().enumerate() {
            if s == t {
                continue;
            }
            let term = (log * &p)?.sum(D::Minus1)?.sum_all()?;
            total = Some(match total {
                Some(total) => (total + term)?,
                None => term,
            });
            pairs += 1;
        }
    }
    let total = total.expect("at least one pair, as there are two views");
    Ok((total * (-1.0 / (pairs * n) as f64))?)
}
