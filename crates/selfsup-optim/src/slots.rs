//! The parameters of an optimiser with the tensors it keeps for each, and one pass of an update rule over
//! them. What is alike for every rule is here: validation, the choice between the fused pass and candle's
//! operations, state out and in.

use crate::error::{ensure, names};
use crate::norm::CHUNK;
use crate::{Error, Param, ParamGroup, Result};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Storage, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// How one parameter moves, with the scalars of this step. `N` tensors of state belong to a parameter.
pub(crate) trait Rule<const N: usize>: Sync {
    /// What needs the whole tensor before the pass over its elements.
    fn prepare(&mut self, _p: &[f32], _g: &[f32]) {}

    /// New values of parameter and state, element by element. Must be marked `#[inline(always)]`, so that it
    /// is compiled for each instruction set.
    fn fused(&self, p: &mut [f32], g: &[f32], state: [&mut [f32]; N]);

    /// The same in candle's operations: sets the state and returns the parameter's new value.
    fn plain(&self, p: &Tensor, g: &Tensor, state: &mut [Tensor; N]) -> Result<Tensor>;
}

/// One parameter.
pub(crate) struct Slot<const N: usize> {
    param: Param,
    /// Its group's decay.
    pub weight_decay: f64,
    /// Its group's adaptation.
    pub adapt: bool,
    /// Its group's factor of the learning rate.
    pub lr_scale: f64,
    state: State<N>,
}

enum State<const N: usize> {
    /// An f32 parameter on the CPU: the fused pass works on these.
    Cpu([Vec<f32>; N]),
    /// Elsewhere: f64 for an f64 parameter, otherwise f32.
    Plain([Tensor; N]),
}

/// All parameters of an optimiser.
pub(crate) struct Slots<const N: usize> {
    slots: Vec<Slot<N>>,
    kinds: [&'static str; N],
}

impl<const N: usize> Slots<N> {
    /// State of zeros under `PARAM.KIND`.
    pub fn new(groups: Vec<ParamGroup>, kinds: [&'static str; N]) -> Result<Self> {
        let mut slots = Vec::new();
        let (mut seen, mut vars) = (HashSet::new(), HashSet::new());
        for group in groups {
            let ParamGroup { params, weight_decay, adapt, lr_scale } = group;
            let range = "finite and 0 or more";
            ensure(positive_or_zero(weight_decay), "a group's weight_decay", range, weight_decay)?;
            ensure(positive_or_zero(lr_scale), "a group's lr_scale", range, lr_scale)?;
            for param in params {
                let dtype = param.var.dtype();
                if !dtype.is_float() {
                    return Err(Error::DType { name: param.name, dtype });
                }
                if !seen.insert(param.name.clone()) || !vars.insert(param.var.id()) {
                    return Err(Error::DuplicateParam(param.name));
                }
                let state = State::zeros(&param)?;
                slots.push(Slot { param, weight_decay, adapt, lr_scale, state });
            }
        }
        if slots.is_empty() {
            return Err(Error::NoParams);
        }
        Ok(Self { slots, kinds })
    }

    /// Moves every parameter by the rule that `rule` makes for it.
    pub fn step<R: Rule<N>>(
        &mut self,
        grads: &GradStore,
        lr: f64,
        rule: impl Fn(&Slot<N>) -> R,
    ) -> Result<()> {
        ensure(positive_or_zero(lr), "the step's learning rate", "finite and 0 or more", lr)?;
        let grads = self.gradients(grads)?;
        for (slot, grad) in self.slots.iter_mut().zip(grads) {
            let rule = rule(slot);
            slot.step(grad, rule)?;
        }
        Ok(())
    }

    fn gradients<'a>(&self, grads: &'a GradStore) -> Result<Vec<&'a Tensor>> {
        let mut missing = Vec::new();
        let mut found = Vec::with_capacity(self.slots.len());
        for Slot { param, .. } in &self.slots {
            match grads.get(&param.var) {
                None => missing.push(param.name.clone()),
                Some(grad) if grad.dims() != param.var.dims() => {
                    return Err(Error::GradientShape {
                        name: param.name.clone(),
                        expected: param.var.dims().to_vec(),
                        got: grad.dims().to_vec(),
                    });
                }
                Some(grad) => found.push(grad),
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(Error::MissingGradients(missing)) }
    }

    /// Copies of the state.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::with_capacity(N * self.slots.len());
        for slot in &self.slots {
            for (i, kind) in self.kinds.iter().enumerate() {
                let tensor = match &slot.state {
                    State::Cpu(s) => {
                        Tensor::from_slice(&s[i], slot.param.var.shape(), slot.param.var.device())?
                    }
                    State::Plain(s) => s[i].copy()?,
                };
                all.push((format!("{}.{kind}", slot.param.name), tensor));
            }
        }
        Ok(all)
    }

    /// Takes up `state`, which must hold exactly the tensors of [`Slots::state`] and the scalars `extra`,
    /// whose values come back.
    pub fn load_state<const M: usize>(
        &mut self,
        state: &HashMap<String, Tensor>,
        extra: [&'static str; M],
    ) -> Result<[i64; M]> {
        let mut problems = Vec::new();
        let mut known = HashSet::new();
        let mut taken = Vec::new();
        let mut missing = Vec::new();
        for slot in &self.slots {
            let dtype = slot.state_dtype();
            let mut tensors = Vec::with_capacity(N);
            for kind in self.kinds {
                let name = format!("{}.{kind}", slot.param.name);
                match state.get(&name) {
                    None => missing.push(name.clone()),
                    Some(t) if t.dims() != slot.param.var.dims() || t.dtype() != dtype => {
                        let (dims, expected) = (t.dims(), slot.param.var.dims());
                        problems.push(format!(
                            "`{name}` must be {dtype:?} {expected:?}, got {:?} {dims:?}",
                            t.dtype()
                        ));
                    }
                    Some(t) => tensors.push(t),
                }
                known.insert(name);
            }
            taken.push(tensors);
        }
        let mut scalars = [0; M];
        for (value, name) in scalars.iter_mut().zip(extra) {
            match state.get(name) {
                None => missing.push(name.into()),
                Some(t) if t.dtype() == DType::I64 && t.rank() == 0 => *value = t.to_scalar()?,
                Some(t) => {
                    problems.push(format!("`{name}` must be I64 [], got {:?} {:?}", t.dtype(), t.dims()))
                }
            }
            known.insert(name.into());
        }
        let mut left: Vec<String> = state.keys().filter(|k| !known.contains(*k)).cloned().collect();
        left.sort();
        for (what, list) in [("missing", missing), ("unexpected", left)] {
            if !list.is_empty() {
                problems.push(format!("{what}: {}", names(&list)));
            }
        }
        if !problems.is_empty() {
            return Err(Error::State(problems.join("; ")));
        }
        let mut new = Vec::with_capacity(taken.len());
        for (slot, tensors) in self.slots.iter().zip(&taken) {
            new.push(slot.state.like(tensors, &slot.param)?);
        }
        for (slot, state) in self.slots.iter_mut().zip(new) {
            slot.state = state;
        }
        Ok(scalars)
    }
}

impl<const N: usize> Slot<N> {
    fn state_dtype(&self) -> DType {
        wide(self.param.var.dtype())
    }

    fn step<R: Rule<N>>(&mut self, grad: &Tensor, rule: R) -> Result<()> {
        let var = &self.param.var;
        match &mut self.state {
            State::Cpu(state) => {
                let mut grad = grad.to_dtype(DType::F32)?.contiguous()?;
                if address(&grad) == address(var) {
                    grad = grad.copy()?; // one memory cannot be locked for reading and writing
                }
                let state = state.each_mut().map(Vec::as_mut_slice);
                var.inplace_op2(&grad, &Fused(RefCell::new((rule, state))))?;
            }
            State::Plain(state) => {
                let dtype = wide(var.dtype());
                let p = var.as_tensor().detach().to_dtype(dtype)?;
                let new = rule.plain(&p, &grad.to_dtype(dtype)?, state)?;
                var.set(&new.to_dtype(var.dtype())?)?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> State<N> {
    fn zeros(param: &Param) -> Result<Self> {
        let var = &param.var;
        if var.device().is_cpu() && var.dtype() == DType::F32 {
            return Ok(State::Cpu(std::array::from_fn(|_| vec![0.0; var.elem_count()])));
        }
        let zeros = Tensor::zeros(var.shape(), wide(var.dtype()), var.device())?;
        Ok(State::Plain(std::array::from_fn(|_| zeros.clone())))
    }

    /// A state of the same kind from `N` tensors.
    fn like(&self, tensors: &[&Tensor], param: &Param) -> Result<Self> {
        Ok(match self {
            State::Cpu(_) => {
                let mut all = std::array::from_fn(|_| Vec::new());
                for (values, tensor) in all.iter_mut().zip(tensors) {
                    *values = tensor.flatten_all()?.to_vec1()?;
                }
                State::Cpu(all)
            }
            State::Plain(old) => {
                let mut all = old.clone();
                for (value, tensor) in all.iter_mut().zip(tensors) {
                    *value = tensor.to_device(param.var.device())?.copy()?;
                }
                State::Plain(all)
            }
        })
    }
}

/// An update rule as an operation on the parameter's memory: candle locks parameter and gradient and hands
/// out both, the state rides along.
struct Fused<'a, R, const N: usize>(RefCell<(R, [&'a mut [f32]; N])>);

impl<R: Rule<N>, const N: usize> InplaceOp2 for Fused<'_, R, N> {
    fn name(&self) -> &'static str {
        "optimiser step"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(p), CpuStorage::F32(g)) = (p, g) else {
            candle_core::bail!("the fused step takes f32");
        };
        let (Some((p_start, p_end)), Some((g_start, g_end))) =
            (p_layout.contiguous_offsets(), g_layout.contiguous_offsets())
        else {
            candle_core::bail!("the fused step takes contiguous tensors");
        };
        let (p, g) = (&mut p[p_start..p_end], &g[g_start..g_end]);
        let (rule, state) = &mut *self.0.borrow_mut();
        rule.prepare(p, g);
        run(rule, p, g, state.each_mut().map(|s| &mut **s));
        Ok(())
    }
}

/// The pass, in chunks of a fixed length over the threads. Each element is computed alone, so the cut does not
/// show in the result.
fn run<R: Rule<N>, const N: usize>(rule: &R, p: &mut [f32], g: &[f32], state: [&mut [f32]; N]) {
    let arch = Arch::new();
    if p.len() <= CHUNK {
        return arch.dispatch(Pass { rule, p, g, state });
    }
    let mut state = state.map(|s| s.chunks_mut(CHUNK));
    let mut next = || state.each_mut().map(|s| s.next().expect("state is as long as its parameter"));
    let jobs: Vec<_> = p.chunks_mut(CHUNK).zip(g.chunks(CHUNK)).map(|(p, g)| (p, g, next())).collect();
    jobs.into_par_iter().for_each(|(p, g, state)| arch.dispatch(Pass { rule, p, g, state }));
}

/// A rule's loop, compiled for each instruction set.
struct Pass<'a, R, const N: usize> {
    rule: &'a R,
    p: &'a mut [f32],
    g: &'a [f32],
    state: [&'a mut [f32]; N],
}

impl<R: Rule<N>, const N: usize> WithSimd for Pass<'_, R, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.rule.fused(self.p, self.g, self.state);
    }
}

/// Where a tensor's memory is described; equal for tensors that share it.
pub(crate) fn address(x: &Tensor) -> *const Storage {
    std::ptr::from_ref(&*x.storage_and_layout().0)
}

/// The dtype of the state and of the arithmetic.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

fn positive_or_zero(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}
