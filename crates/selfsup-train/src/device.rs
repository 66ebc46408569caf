//! A device by its name.

use crate::{Error, Result};
use candle_core::Device;

/// `auto` (CUDA, else Metal, else the CPU), `cpu`, `cuda`, `cuda:I` or `metal`.
pub fn device(name: &str) -> Result<Device> {
    let unavailable =
        |e: candle_core::Error| Error::Config(format!("the device `{name}` is not available: {e}"));
    match name.split_once(':').unwrap_or((name, "0")) {
        ("auto", "0") => Ok(Device::new_cuda(0).or_else(|_| Device::new_metal(0)).unwrap_or(Device::Cpu)),
        ("cpu", "0") => Ok(Device::Cpu),
        ("metal", "0") => Device::new_metal(0).map_err(unavailable),
        ("cuda", index) => {
            let index =
                index.parse().map_err(|_| Error::Config(format!("`{index}` in `{name}` is not a number")))?;
            Device::new_cuda(index).map_err(unavailable)
        }
        _ => Err(Error::Config(format!("device must be auto, cpu, cuda, cuda:I or metal, got `{name}`"))),
    }
}
