//! Which kernels of `info_nce.metal` run for which form, in which order, on what: all that the launch code is but for
//! the device itself, so that the tests run the same launches with the shader compiled for the CPU.
//!
//! Every form is one pass over S for each softmax, and one for each gradient:
//!
//! ```text
//! nt_xent, sup_con    a = b = z, each row an anchor and a candidate
//! info_nce            b's rows have weight 0: candidates alone
//! info_nce_queue      the same with the queue as b; the own key's logit is added to each row's
//! two_tower           the rows of both are anchors, and a second pass takes b's softmax over a
//! ```

use super::roles::Role;

/// Threads of a threadgroup, in four simdgroups.
pub const THREADS: usize = 128;

/// Rows of a threadgroup in the passes over S.
const TILE_ROWS: usize = 32;
/// Rows of a threadgroup where each simdgroup has one.
const SIMDGROUPS: usize = 4;
/// What numbers of rows are padded to: a tile's columns, which also are a multiple of its rows.
const PADDED_ROWS: usize = 64;
/// What widths are padded to: a simdgroup's part of a gradient.
const PADDED_WIDTH: usize = 32;
/// A tile of S in threadgroup memory, in bytes: 32 rows of 64 + 4 numbers.
const TILE_BYTES: usize = TILE_ROWS * (64 + 4) * 4;
/// Two numbers for each thread.
const PARTS_BYTES: usize = THREADS * 8;

/// A GPU, or what stands for one.
pub trait Device {
    /// Memory on the device; a clone is the same memory.
    type Buffer: Clone;
    /// What goes wrong on it.
    type Error;

    /// Room for `len` f32, of any value.
    fn floats(&self, len: usize) -> Result<Self::Buffer, Self::Error>;

    /// Roles in the device's memory.
    fn roles(&self, roles: &[Role]) -> Result<Self::Buffer, Self::Error>;

    /// Has `groups` threadgroups of [`THREADS`] run a kernel with these arguments, in the order of its parameters, and
    /// `shared` bytes of threadgroup memory each, after all that was run before.
    fn run(
        &self,
        kernel: &'static str,
        arguments: &[Argument<'_, Self::Buffer>],
        shared: usize,
        groups: usize,
    ) -> Result<(), Self::Error>;
}

/// A kernel's argument.
pub enum Argument<'a, B> {
    /// Memory that the kernel reads.
    In(&'a B),
    /// Memory that it writes, or both.
    Out(&'a B),
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
    /// The sizes.
    Sizes(Sizes),
}

/// n rows and m columns of S, and the width without and with padding, as the shader has them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sizes {
    /// Rows.
    pub n: u32,
    /// Columns.
    pub m: u32,
    /// Numbers of a row.
    pub d: u32,
    /// The same with zeros at the end.
    pub depth: u32,
}

/// 1/τ: a number, or a scalar on the device.
pub enum Scale<B> {
    /// Known here.
    Number(f32),
    /// Known there.
    Scalar(B),
}

impl<B> Scale<B> {
    fn argument(&self) -> Argument<'_, B> {
        match self {
            Scale::Number(scale) => Argument::F32(*scale),
            Scale::Scalar(scale) => Argument::In(scale),
        }
    }
}

/// The rows of one matrix, scaled to √(1/τ) and padded.
struct Rows<B> {
    n: usize,
    values: B,
    norms: B,
}

/// One side of S: its rows, what they are, and their softmax if they are anchors.
struct Side<B> {
    rows: Rows<B>,
    roles: B,
    softmax: B,
    anchors: bool,
}

/// The own keys of the queue's form, and each query's logit with its own.
struct Own<B> {
    keys: Rows<B>,
    logits: B,
}

/// A form with its matrices, and what the pass for the loss leaves to that for the gradients. Its memory is linear in
/// the numbers of rows.
pub struct Contrast<B> {
    a: Side<B>,
    /// None: b is a.
    b: Option<Side<B>>,
    own: Option<Own<B>>,
    width: Width<B>,
}

/// The width of all rows, and their length squared.
struct Width<B> {
    d: usize,
    scale: Scale<B>,
}

/// The gradients of the matrices as they came, row by row without padding.
pub struct Gradients<B> {
    /// Of a.
    pub a: B,
    /// Of b, or of the own keys.
    pub b: Option<B>,
    /// Of the scale, if it is on the device.
    pub scale: Option<B>,
}

impl<B: Clone> Contrast<B> {
    /// Rows x, `[n, d]`, against each other. Returns the mean loss over the anchors besides, one f32.
    pub fn itself<D: Device<Buffer = B>>(
        device: &D,
        x: &B,
        roles: &[Role],
        d: usize,
        scale: Scale<B>,
    ) -> Result<(Self, B), D::Error> {
        let width = Width { d, scale };
        let a = width.side(device, x, roles)?;
        Self { a, b: None, own: None, width }.with_loss(device)
    }

    /// Rows of one matrix against those of another.
    pub fn between<D: Device<Buffer = B>>(
        device: &D,
        [a, b]: [&B; 2],
        roles: [&[Role]; 2],
        d: usize,
        scale: Scale<B>,
    ) -> Result<(Self, B), D::Error> {
        let width = Width { d, scale };
        let a = width.side(device, a, roles[0])?;
        let b = Some(width.side(device, b, roles[1])?);
        Self { a, b, own: None, width }.with_loss(device)
    }

    /// n queries and their own keys against a queue of m rows.
    pub fn queue<D: Device<Buffer = B>>(
        device: &D,
        [queries, keys, queue]: [&B; 3],
        [n, m]: [usize; 2],
        d: usize,
        scale: Scale<B>,
    ) -> Result<(Self, B), D::Error> {
        let width = Width { d, scale };
        let [a, b] = Role::queue(n, m);
        let a = width.side(device, queries, &a)?;
        let b = Some(width.side(device, queue, &b)?);
        let keys = width.rows(device, keys, n)?;
        let logits = device.floats(n)?;
        let arguments = [
            Argument::In(&a.rows.values),
            Argument::In(&keys.values),
            Argument::Out(&logits),
            Argument::Sizes(width.sizes(n, n)),
        ];
        device.run("own_similarities", &arguments, 0, n.div_ceil(SIMDGROUPS))?;
        Self { a, b, own: Some(Own { keys, logits }), width }.with_loss(device)
    }

    fn with_loss<D: Device<Buffer = B>>(self, device: &D) -> Result<(Self, B), D::Error> {
        let (a, b) = self.sides();
        let both = self.b.is_some() && b.anchors;
        let count = a.rows.n + if both { b.rows.n } else { 0 };
        let terms = device.floats(count)?;
        self.log_sum_exp(device, a, b, &terms, 0)?;
        if both {
            self.log_sum_exp(device, b, a, &terms, a.rows.n)?;
        }
        let loss = sum(device, &terms, count)?;
        Ok((self, loss))
    }

    /// `grad` times the gradients, where `grad` is one f32; b's where it is asked for.
    pub fn gradients<D: Device<Buffer = B>>(
        &self,
        device: &D,
        grad: &B,
        with_b: bool,
    ) -> Result<Gradients<B>, D::Error> {
        let (a, b) = self.sides();
        let da = self.weighted_sums(device, a, b)?;
        let db = match &self.own {
            Some(own) => Some((&own.keys, self.own_gradients(device, own, &da)?)),
            None if with_b && self.b.is_some() => Some((&b.rows, self.weighted_sums(device, b, a)?)),
            None => None,
        };
        let (dx, along) = self.width.project(device, &a.rows, &da, grad)?;
        let db = match db {
            Some((rows, db)) if with_b => Some(self.width.project(device, rows, &db, grad)?.0),
            _ => None,
        };
        // S is proportional to the scale: Σ_ik dS(i, k) S(i, k)/scale.
        let scale = match self.width.scale {
            Scale::Scalar(_) => Some(sum(device, &along, a.rows.n)?),
            Scale::Number(_) => None,
        };
        Ok(Gradients { a: dx, b: db, scale })
    }

    fn sides(&self) -> (&Side<B>, &Side<B>) {
        (&self.a, self.b.as_ref().unwrap_or(&self.a))
    }

    /// The softmax of a's rows over b's, and their terms of the loss from number `first` on.
    fn log_sum_exp<D: Device<Buffer = B>>(
        &self,
        device: &D,
        a: &Side<B>,
        b: &Side<B>,
        terms: &B,
        first: usize,
    ) -> Result<(), D::Error> {
        // Without own keys the kernel reads none: any memory does.
        let own = self.own.as_ref().map_or(&a.rows.values, |own| &own.logits);
        let arguments = [
            Argument::In(&a.rows.values),
            Argument::In(&b.rows.values),
            Argument::In(&a.roles),
            Argument::In(&b.roles),
            Argument::In(own),
            Argument::Out(&a.softmax),
            Argument::Out(terms),
            Argument::U32(self.own.is_some().into()),
            Argument::U32(first as u32),
            Argument::Sizes(self.width.sizes(a.rows.n, b.rows.n)),
        ];
        device.run("log_sum_exp", &arguments, TILE_BYTES, a.rows.n.div_ceil(TILE_ROWS))
    }

    /// The gradient of a's scaled rows.
    fn weighted_sums<D: Device<Buffer = B>>(
        &self,
        device: &D,
        a: &Side<B>,
        b: &Side<B>,
    ) -> Result<B, D::Error> {
        let da = device.floats(self.width.padded(a.rows.n))?;
        let arguments = [
            Argument::In(&a.rows.values),
            Argument::In(&b.rows.values),
            Argument::In(&a.roles),
            Argument::In(&b.roles),
            Argument::In(&a.softmax),
            Argument::In(&b.softmax),
            Argument::Out(&da),
            Argument::Sizes(self.width.sizes(a.rows.n, b.rows.n)),
        ];
        device.run("weighted_sums", &arguments, TILE_BYTES, a.rows.n.div_ceil(TILE_ROWS))?;
        Ok(da)
    }

    /// Adds the own keys' part to `da`, and returns the gradient of the scaled keys.
    fn own_gradients<D: Device<Buffer = B>>(&self, device: &D, own: &Own<B>, da: &B) -> Result<B, D::Error> {
        let n = own.keys.n;
        let dk = device.floats(self.width.padded(n))?;
        let arguments = [
            Argument::In(&self.a.rows.values),
            Argument::In(&own.keys.values),
            Argument::In(&self.a.roles),
            Argument::In(&own.logits),
            Argument::In(&self.a.softmax),
            Argument::Out(da),
            Argument::Out(&dk),
            Argument::Sizes(self.width.sizes(n, n)),
        ];
        device.run("own_gradients", &arguments, 0, n.div_ceil(SIMDGROUPS))?;
        Ok(dk)
    }
}

impl<B: Clone> Width<B> {
    fn sizes(&self, n: usize, m: usize) -> Sizes {
        let depth = self.d.next_multiple_of(PADDED_WIDTH);
        Sizes { n: n as u32, m: m as u32, d: self.d as u32, depth: depth as u32 }
    }

    /// Numbers of n rows with their padding.
    fn padded(&self, n: usize) -> usize {
        padded_len(n, self.d)
    }

    fn rows<D: Device<Buffer = B>>(&self, device: &D, x: &B, n: usize) -> Result<Rows<B>, D::Error> {
        let rows = Rows { n, values: device.floats(self.padded(n))?, norms: device.floats(2 * n)? };
        let arguments = [
            Argument::In(x),
            Argument::Out(&rows.values),
            Argument::Out(&rows.norms),
            self.scale.argument(),
            Argument::Sizes(self.sizes(n, n)),
        ];
        device.run("normalize_rows", &arguments, 0, n.next_multiple_of(PADDED_ROWS) / SIMDGROUPS)?;
        Ok(rows)
    }

    fn side<D: Device<Buffer = B>>(&self, device: &D, x: &B, roles: &[Role]) -> Result<Side<B>, D::Error> {
        let n = roles.len();
        Ok(Side {
            rows: self.rows(device, x, n)?,
            roles: device.roles(roles)?,
            softmax: device.floats(2 * n)?,
            anchors: roles.iter().any(Role::is_anchor),
        })
    }

    /// The gradient of the rows as they came from that of the scaled ones, and its part along each row.
    fn project<D: Device<Buffer = B>>(
        &self,
        device: &D,
        rows: &Rows<B>,
        dv: &B,
        grad: &B,
    ) -> Result<(B, B), D::Error> {
        let (dx, along) = (device.floats(rows.n * self.d)?, device.floats(rows.n)?);
        let arguments = [
            Argument::In(&rows.values),
            Argument::In(dv),
            Argument::In(&rows.norms),
            Argument::In(grad),
            Argument::Out(&dx),
            Argument::Out(&along),
            self.scale.argument(),
            Argument::Sizes(self.sizes(rows.n, rows.n)),
        ];
        device.run("project", &arguments, 0, rows.n.div_ceil(SIMDGROUPS))?;
        Ok((dx, along))
    }
}

/// Numbers of n rows of width d with their padding.
pub fn padded_len(n: usize, d: usize) -> usize {
    n.next_multiple_of(PADDED_ROWS) * d.next_multiple_of(PADDED_WIDTH)
}

/// The sum of n numbers.
fn sum<D: Device>(device: &D, terms: &D::Buffer, n: usize) -> Result<D::Buffer, D::Error> {
    let out = device.floats(1)?;
    let arguments = [Argument::In(terms), Argument::Out(&out), Argument::U32(n as u32)];
    device.run("sum_terms", &arguments, PARTS_BYTES, 1)?;
    Ok(out)
}
