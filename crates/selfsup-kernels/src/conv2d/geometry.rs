//! The sizes of one convolution, checked once.

use super::{Conv2dConfig, OP, transposed};
use crate::{Result, check};
use candle_core::{Shape, Tensor};

/// Every size that the loops need. Padding is kept per axis: the input gradient is a convolution whose paddings
/// differ where the kernel is not square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub kh: usize,
    pub kw: usize,
    pub k: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub stride: usize,
    pub pad_h: usize,
    pub pad_w: usize,
    pub dilation: usize,
    pub groups: usize,
}

impl Geometry {
    /// Checks everything that can be wrong with shapes and parameters.
    pub(super) fn new(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Self> {
        Self::of(check::nhwc(OP, x)?, weight, config)
    }

    /// [`Geometry::new`] for an x that is no tensor, of `[n, h, w, c]` none of which is 0.
    pub(crate) fn of([n, h, w, c]: [usize; 4], weight: &Tensor, config: Conv2dConfig) -> Result<Self> {
        let Conv2dConfig { stride, padding, dilation, groups } = config;
        for (name, value) in [("stride", stride), ("dilation", dilation), ("groups", groups)] {
            if value == 0 {
                return Err(check::parameter_error(OP, name, "at least 1", value));
            }
        }
        let expected = || format!("weight of [kh, kw, c/g, k] for x of {:?} and g = {groups}", [n, h, w, c]);
        let &[kh, kw, group_c, k] = weight.dims() else {
            return Err(check::shape_error(OP, expected(), weight));
        };
        check::not_empty(OP, weight)?;
        if c % groups != 0 || k % groups != 0 {
            return Err(check::parameter_error(OP, "groups", "a divisor of c and of k", (groups, c, k)));
        }
        if group_c != c / groups {
            return Err(check::shape_error(OP, expected(), weight));
        }
        let side = |size: usize, kernel: usize| {
            let reach = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
            let padded = padding.checked_mul(2)?.checked_add(size)?;
            Some(padded.checked_sub(reach)? / stride + 1)
        };
        let (Some(out_h), Some(out_w)) = (side(h, kh), side(w, kw)) else {
            let expected =
                format!("a kernel within the image of {h}×{w} with padding {padding}, dilation {dilation}");
            return Err(check::shape_error(OP, expected, weight));
        };
        // Bytes of y as f64 must be countable; a padding of billions of pixels would overflow them.
        let numbers = [n, out_h, out_w, k, 8].iter().try_fold(1usize, |all, &d| all.checked_mul(d));
        if numbers.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(check::parameter_error(
                OP,
                "padding",
                "small enough for y to fit in memory",
                padding,
            ));
        }
        let (pad_h, pad_w) = (padding, padding);
        Ok(Self { n, h, w, c, kh, kw, k, out_h, out_w, stride, pad_h, pad_w, dilation, groups })
    }

    /// The convolution whose input gradient is this transposed convolution of x: from y to x.
    pub(super) fn of_transposed(
        x: &Tensor,
        weight: &Tensor,
        output_padding: usize,
        config: Conv2dConfig,
    ) -> Result<Self> {
        const OP: &str = transposed::OP;
        let Conv2dConfig { stride, padding, dilation, groups } = config;
        for (name, value) in [("stride", stride), ("dilation", dilation), ("groups", groups)] {
            if value == 0 {
                return Err(check::parameter_error(OP, name, "at least 1", value));
            }
        }
        if output_padding >= stride {
            return Err(check::parameter_error(OP, "output_padding", "below the stride", output_padding));
        }
        let [n, h, w, c] = check::nhwc(OP, x)?;
        let expected = || format!("weight of [kh, kw, k/g, c] for x of {:?} and g = {groups}", x.dims());
        let &[kh, kw, group_k, channels] = weight.dims() else {
            return Err(check::shape_error(OP, expected(), weight));
        };
        check::not_empty(OP, weight)?;
        if channels != c {
            return Err(check::shape_error(OP, expected(), weight));
        }
        if c % groups != 0 {
            return Err(check::parameter_error(OP, "groups", "a divisor of c", (groups, c)));
        }
        let side = |size: usize, kernel: usize| {
            let reach = dilation.checked_mul(kernel - 1)?.checked_add(output_padding + 1)?;
            let full = (size - 1).checked_mul(stride)?.checked_add(reach)?;
            full.checked_sub(padding.checked_mul(2)?).filter(|&size| size > 0)
        };
        let (Some(out_h), Some(out_w)) = (side(h, kh), side(w, kw)) else {
            return Err(check::parameter_error(OP, "padding", "small enough to leave pixels in y", padding));
        };
        let k = group_k * groups;
        let numbers = [n, out_h, out_w, k, 8].iter().try_fold(1usize, |all, &d| all.checked_mul(d));
        if numbers.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(check::parameter_error(OP, "stride", "small enough for y to fit in memory", stride));
        }
        Ok(Self {
            n,
            h: out_h,
            w: out_w,
            c: k,
            kh,
            kw,
            k: c,
            out_h: h,
            out_w: w,
            stride,
            pad_h: padding,
            pad_w: padding,
            dilation,
            groups,
        })
    }

    pub(crate) fn output_shape(&self) -> Shape {
        Shape::from((self.n, self.out_h, self.out_w, self.k))
    }

    /// Numbers in the weight.
    pub(crate) fn weights(&self) -> usize {
        self.taps() * self.group_c() * self.k
    }

    /// Taps of the kernel.
    pub(super) fn taps(&self) -> usize {
        self.kh * self.kw
    }

    /// Channels in of one group.
    pub(super) fn group_c(&self) -> usize {
        self.c / self.groups
    }

    /// Channels out of one group.
    pub(super) fn group_k(&self) -> usize {
        self.k / self.groups
    }

    /// Whether each channel out sees one channel in.
    pub(super) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.c && self.groups == self.k
    }
}
