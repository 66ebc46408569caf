//! The most memory that a process has had in use, as the kernel counts it. Linux only.

use std::fs;

/// Begins to count anew for a process: ours, or a child.
pub fn reset(process: u32) {
    // Where the kernel does not let us, the peak is that since the process's start.
    let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
}

/// The most bytes that were resident at a time since then.
pub fn peak(process: u32) -> Option<u64> {
    in_bytes(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn in_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found() {
        assert_eq!(in_bytes("VmPeak:\t  9 kB\nVmHWM:\t  1234 kB\nVmRSS:\t 5 kB\n"), Some(1234 * 1024));
        assert_eq!(in_bytes("VmPeak:\t  9 kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_written_to_is_counted() {
        const SIZE: usize = 64 << 20;
        let process = std::process::id();
        reset(process);
        let before = peak(process).unwrap();
        assert!(std::hint::black_box(vec![1u8; SIZE]).iter().all(|byte| *byte == 1));
        let after = peak(process).unwrap();
        assert!(after >= before + SIZE as u64 / 2, "{before} {after}");
    }
}
