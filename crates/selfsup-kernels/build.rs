//! Compiles the CUDA kernels, if the `cuda` feature is on: machine code for one architecture, and PTX for later ones.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::build()?;
    Ok(())
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::path::Path;
    use std::process::Command;

    const SOURCES: &str = "src/info_nce/cuda";

    pub fn build() -> Result<(), Box<dyn std::error::Error>> {
        for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "NVCC", "PATH"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        let nvcc = cudaforge::CudaToolkit::detect()?.nvcc_path;
        let architecture = cudaforge::detect_compute_cap()?.base();
        if architecture < 80 {
            return Err(
                format!("bf16 on tensor cores needs compute capability 8.0, this is {architecture}").into()
            );
        }
        let generate =
            format!("-gencode=arch=compute_{architecture},code=[sm_{architecture},compute_{architecture}]");
        let directory = std::env::var("OUT_DIR")?;
        println!("cargo::rerun-if-changed={SOURCES}/ptx.cuh");
        for name in ["tiles", "rows"] {
            let source = format!("{SOURCES}/{name}.cu");
            println!("cargo::rerun-if-changed={source}");
            let output = Path::new(&directory).join(format!("{name}.fatbin"));
            let status = Command::new(&nvcc)
                .args(["-std=c++17", "-O3", "-fatbin", &generate, "-o"])
                .arg(output)
                .arg(&source)
                .status()?;
            if !status.success() {
                return Err(format!("nvcc did not compile {source}").into());
            }
        }
        Ok(())
    }
}
