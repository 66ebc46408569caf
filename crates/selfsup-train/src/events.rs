//! TensorBoard event files: scalars only.
//!
//! A file is a row of TFRecords (`u64` length, masked CRC-32C of the length, bytes, masked CRC-32C of the
//! bytes; TensorFlow's `record_writer.cc` documents the format), each an `Event` protocol buffer
//! (`tensorflow/core/util/event.proto`): wall_time = 1 (double), step = 2 (varint), file_version = 3 (string),
//! summary = 5 { value = 1 { tag = 1 (string), simple_value = 2 (float) } }.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes scalars to one event file.
#[derive(Debug)]
pub struct EventWriter(BufWriter<File>);

impl EventWriter {
    /// Starts a file. TensorBoard reads every file of a folder whose name has `tfevents` in it.
    pub fn create(path: &Path, wall_time: f64) -> io::Result<Self> {
        let mut writer = Self(BufWriter::new(File::create(path)?));
        let mut event = Vec::new();
        fixed64(&mut event, 1, wall_time);
        bytes(&mut event, 3, b"brain.Event:2");
        writer.record(&event)?;
        Ok(writer)
    }

    /// One value a tag at a step, with the wall time in seconds since 1970.
    pub fn scalars<'a>(
        &mut self,
        wall_time: f64,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5); // field 2, 32 bits
            entry.extend_from_slice(&(value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        let mut event = Vec::new();
        fixed64(&mut event, 1, wall_time);
        event.push(2 << 3); // field 2, varint
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.0.write_all(&length)?;
        self.0.write_all(&masked_crc(&length).to_le_bytes())?;
        self.0.write_all(data)?;
        self.0.write_all(&masked_crc(data).to_le_bytes())
    }
}

/// TFRecord's mask: a checksum of data that holds checksums is weak, so each is rotated and offset.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn fixed64(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protocol buffer of one scalar, encoded by hand from event.proto:
    /// wall_time 1.5, step 300, tag "loss", value 0.25.
    #[test]
    fn one_scalar_is_the_documented_record() {
        let folder = std::env::temp_dir().join(format!("selfsup-events-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.tfevents.0");
        let mut writer = EventWriter::create(&path, 1.5).unwrap();
        writer.scalars(1.5, 300, [("loss", 0.25)]).unwrap();
        writer.flush().unwrap();
        let file = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let first = 8 + 4 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize + 4;
        let event: &[u8] = &[
            0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, // wall_time 1.5
            0x10, 0xac, 0x02, // step 300
            0x2a, 0x0d, 0x0a, 0x0b, // summary, value
            0x0a, 0x04, b'l', b'o', b's', b's', // tag
            0x15, 0, 0, 0x80, 0x3e, // simple_value 0.25
        ];
        assert_eq!(&file[first..first + 8], &(event.len() as u64).to_le_bytes());
        assert_eq!(&file[first + 12..first + 12 + event.len()], event);
    }

    #[test]
    fn checksum_is_crc32c_masked() {
        // CRC-32C of "123456789" is e3069283 (RFC 3720, B.4's polynomial); the mask is TFRecord's.
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
