//! Archives as torch.save writes them.

/// An archive whose entries' folder is called otherwise, as torch.save would have written it.
pub fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut out = Zip64::default();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let name = entry.name().unwrap().replacen(from, to, 1);
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        out.entry(&name, &data);
    }
    out.finish()
}

/// Writes stored entries and, as torch's writer, always zip64's end (APPNOTE 4.3.14 and 4.3.15).
#[derive(Default)]
struct Zip64 {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u64,
}

impl Zip64 {
    fn entry(&mut self, name: &str, data: &[u8]) {
        let (at, length) = (self.bytes.len() as u32, data.len() as u32);
        // Version, flags, method, time, date; checksum, sizes; lengths of the name and of what is more.
        let common = [
            &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &crc32fast::hash(data).to_le_bytes(),
            &length.to_le_bytes(),
            &length.to_le_bytes(),
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        self.bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
        self.directory
            .extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &at.to_le_bytes(), name.as_bytes()].concat());
        self.count += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        let (start, length) = (self.bytes.len() as u64, self.directory.len() as u64);
        self.bytes.extend(&self.directory);
        let end = self.bytes.len() as u64;
        let numbers = [self.count, self.count, length, start].map(u64::to_le_bytes).concat();
        self.bytes
            .extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[45, 0, 45, 0], &[0; 8], &numbers].concat());
        self.bytes.extend([b"PK\x06\x07", &[0; 4][..], &end.to_le_bytes(), &1u32.to_le_bytes()].concat());
        let count = (self.count as u16).to_le_bytes();
        let (length, start) = ((length as u32).to_le_bytes(), (start as u32).to_le_bytes());
        self.bytes.extend([b"PK\x05\x06", &[0; 4][..], &count, &count, &length, &start, &[0; 2]].concat());
        self.bytes
    }
}
