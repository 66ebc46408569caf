//! Weight files of others: PyTorch's two formats, shards, and files that lie. The golden files come from `golden/make_pytorch.py`.

#[path = "common/memory.rs"]
mod memory;
#[path = "common/zip64.rs"]
mod zip64;

use candle_core::{DType, Device, Tensor};
use selfsup_models::weights::{self, WeightFile};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Far more than any of the files here needs, far less than what they claim.
const MOST_BYTES: usize = 128 << 20;

/// Reads bytes as a file, within bounded memory.
fn read(bytes: &[u8]) -> Result<WeightFile, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let (read, peak) = memory::peak(|| weights::read(file.path(), &Device::Cpu));
    assert!(peak < MOST_BYTES, "{peak} bytes for a file of {}", bytes.len());
    read.map_err(|e| e.to_string())
}

fn fails(bytes: &[u8], part: &str) {
    let error = read(bytes).expect_err(part);
    assert!(error.contains(part), "expected `{part}`: {error}");
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pytorch").join(name)).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn checkpoints_of_both_formats_are_read_whole() {
    for form in ["zip", "legacy"] {
        let file = read(&golden(&format!("checkpoint-{form}.pth"))).unwrap();
        let count = |n: usize, first: f64| (0..n).map(|i| first + i as f64).collect::<Vec<_>>();
        // Rows 1 and 2, columns 2 to 4, of a 4×6 table that begins with 100.
        let part: Vec<f64> =
            [1, 2].iter().flat_map(|r| (2..5).map(move |c| f64::from(100 + 6 * r + c))).collect();
        let transposed: Vec<f64> = (0..24).map(|i| f64::from(100 + 6 * (i % 4) + i / 4)).collect();
        let expected: Vec<(&str, DType, Vec<usize>, Vec<f64>)> = vec![
            ("state_dict.module.conv.weight", DType::F32, vec![2, 3, 3, 3], count(54, 0.0)),
            ("state_dict.module.f64", DType::F64, vec![3], count(3, 0.5)),
            ("state_dict.module.f16", DType::F16, vec![3], count(3, 0.5)),
            ("state_dict.module.bf16", DType::BF16, vec![3], count(3, 0.5)),
            ("state_dict.module.i64", DType::I64, vec![], count(1, 7.0)),
            ("state_dict.module.i32", DType::I64, vec![2], count(2, -1.0)),
            ("state_dict.module.i16", DType::I64, vec![2], count(2, -1.0)),
            ("state_dict.module.i8", DType::I64, vec![2], count(2, -1.0)),
            ("state_dict.module.u8", DType::U8, vec![2], count(2, 254.0)),
            ("state_dict.module.bool", DType::U8, vec![2], vec![1.0, 0.0]),
            ("state_dict.module.empty", DType::F32, vec![0, 5], vec![]),
            ("state_dict.module.transposed", DType::F32, vec![6, 4], transposed),
            ("state_dict.module.part", DType::F32, vec![2, 3], part),
            ("state_dict.module.same", DType::F32, vec![4, 6], count(24, 100.0)),
            ("optimizer.state.0.momentum_buffer", DType::F32, vec![2], count(2, 3.0)),
        ];
        for (name, dtype, shape, wanted) in &expected {
            let t = file.tensors.get(*name).unwrap_or_else(|| panic!("{form}: {name}"));
            assert_eq!((t.dtype(), t.dims(), &values(t)), (*dtype, &shape[..], wanted), "{form}: {name}");
        }
        assert_eq!(file.tensors.len(), expected.len(), "{form}");
        let metadata = [("epoch", "200"), ("arch", "resnet50"), ("best", "0.5")];
        assert_eq!(file.metadata, metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }
}

#[test]
fn what_is_no_weight_file_is_refused_by_name() {
    for form in ["zip", "legacy"] {
        fails(&golden(&format!("command-{form}.pth")), "`posix.system`");
        fails(&golden(&format!("module-{form}.pth")), "`torch.nn.modules.linear.Linear`");
        fails(&golden(&format!("empty-{form}.pth")), "no tensor");
    }
    fails(b"", "empty");
    fails(&golden("checkpoint-zip.pth")[..900], "cut off, or damaged");
    for bytes in [&b"P"[..], b"not a weight file", &[0; 40], &[0x80, 2]] {
        fails(bytes, "neither safetensors nor what torch.save writes");
    }
    fails(b"{\"a\": 1}", "not an index of shards");
}

/// Each beginning of a file is an error, and each byte turned over is one or harmless: nothing panics, nothing takes much memory.
#[test]
fn cut_and_damaged_files_are_errors() {
    for name in ["checkpoint-zip.pth", "checkpoint-legacy.pth"] {
        let whole = golden(name);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{name} cut at {cut}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                drop(read(&damaged));
            }
        }
    }
}

/// A zip archive as torch.save writes one.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let once: Vec<_> = entries.iter().map(|&(name, bytes)| (name, bytes, 1)).collect();
    zipped(&once, zip::CompressionMethod::Stored)
}

/// As another program may have packed it anew.
const DEFLATED: zip::CompressionMethod = zip::CompressionMethod::Deflated;

/// Entries with their bytes so many times: what measures memory counts what other tests take beside it.
fn zipped(entries: &[(&str, &[u8], usize)], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes, times) in entries {
        zip.start_file(*name, options).unwrap();
        for _ in 0..*times {
            zip.write_all(bytes).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

/// The pickle `{"w": tensor}` of protocol 2 with a storage of `count` numbers and a view of it.
fn pickle(count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    pickle_with(b"", count, offset, shape, strides)
}

/// The same with more behind the storage's count.
fn pickle_with(more: &[u8], count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let mut p = vec![0x80, 2, b'}', b'('];
    let text = |p: &mut Vec<u8>, s: &str| {
        p.push(b'X');
        p.extend((s.len() as u32).to_le_bytes());
        p.extend(s.as_bytes());
    };
    let int = |p: &mut Vec<u8>, n: i64| {
        p.extend([0x8a, 8]);
        p.extend(n.to_le_bytes());
    };
    text(&mut p, "w");
    p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(&mut p, "storage");
    p.extend(b"ctorch\nFloatStorage\n");
    text(&mut p, "0");
    text(&mut p, "cpu");
    int(&mut p, count);
    p.extend(more);
    p.extend(b"tQ");
    int(&mut p, offset);
    for sizes in [shape, strides] {
        p.push(b'(');
        sizes.iter().for_each(|&n| int(&mut p, n));
        p.push(b't');
    }
    p.extend([0x89]);
    p.extend(b"NtRu.");
    p
}

fn tensor_file(count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    archive(&[("a/data.pkl", &pickle(count, offset, shape, strides)), ("a/data/0", &[0; 16])])
}

#[test]
fn tensors_that_claim_what_is_not_there_are_refused() {
    assert_eq!(read(&tensor_file(4, 0, &[2, 2], &[2, 1])).unwrap().tensors["w"].dims(), [2, 2]);
    // The last three of four, in their order and in another.
    let numbers: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    for (shape, strides, wanted) in
        [([3, 1], [1, 1], vec![2.0, 3.0, 4.0]), ([2, 2], [1, 1], vec![2.0, 3.0, 3.0, 4.0])]
    {
        let file = archive(&[("a/data.pkl", &pickle(4, 1, &shape, &strides)), ("a/data/0", &numbers)]);
        assert_eq!(values(&read(&file).unwrap().tensors["w"]), wanted);
    }
    let giga = 1 << 30;
    for (file, part) in [
        (tensor_file(10 * giga, 0, &[10 * giga], &[1]), "far more memory than the file"),
        (tensor_file(10 * giga, 0, &[4], &[1]), "are announced"),
        (tensor_file(i64::MAX, 0, &[4], &[1]), "too large"),
        (tensor_file(-4, 0, &[4], &[1]), "storage's name"),
        (tensor_file(4, 0, &[5], &[1]), "does not lie in its storage of 4"),
        (tensor_file(4, 1, &[4], &[1]), "does not lie in its storage"),
        (tensor_file(4, -1, &[4], &[1]), "begins before its storage"),
        (tensor_file(4, 0, &[2, 2], &[3, 1]), "does not lie in its storage"),
        (tensor_file(4, 0, &[2, 2], &[-1, 1]), "a size of -1"),
        (tensor_file(4, 0, &[2], &[1, 1]), "strides"),
        // One number that stands for ten thousand million.
        (tensor_file(4, 0, &[10 * giga], &[0]), "does not lie in its storage"),
        (tensor_file(4, 0, &[giga, giga, giga], &[0, 0, 0]), "too large"),
        // None at all, of strides beyond any number.
        (tensor_file(4, 0, &[0, giga, giga, giga], &[0, 0, 0, 0]), "too large"),
        (tensor_file(4, 0, &[2, 2], &[i64::MAX, i64::MAX]), "does not lie in its storage"),
        (tensor_file(5, 0, &[4], &[1]), "has 16 bytes, 20 are announced"),
    ] {
        fails(&file, part);
    }
    let with = |more: &[u8]| {
        archive(&[("a/data.pkl", &pickle_with(more, 4, 0, &[4], &[1])), ("a/data/0", &[0; 16])])
    };
    assert!(read(&with(b"N")).is_ok(), "no view");
    fails(&with(b"(X\x01\x00\x00\x001K\x02K\x02t"), "a part of another one");
    assert_eq!(read(&tensor_file(4, 9, &[0, giga], &[1, 1])).unwrap().tensors["w"].dims(), [0, 1 << 30]);
}

#[test]
fn archives_that_lie_are_refused() {
    let good = pickle(4, 0, &[4], &[1]);
    let data: &[u8] = &[0; 16];
    for (entries, part) in [
        (vec![("a/data.pkl", &good[..])], "a/data/0"),
        (vec![("a/other", data)], "0 entries data.pkl"),
        (vec![("a/data.pkl", &good), ("b/data.pkl", &good)], "2 entries data.pkl"),
        (vec![("a/data.pkl", &good), ("a/data/0", data), ("../../etc/cron", data)], "outside of the archive"),
        (vec![("a/data.pkl", &good), ("a/data/0", data), ("/etc/cron", data)], "outside of the archive"),
        (vec![("a/data.pkl", &good), ("a/byteorder", b"big"), ("a/data/0", data)], "big-endian"),
        (
            vec![("a/data.pkl", &good), ("a/byteorder", &[b' '; 20]), ("a/data/0", data)],
            "more than the 16 bytes",
        ),
    ] {
        fails(&archive(&entries), part);
    }
    // A quarter of a gibibyte of zeros in less than a megabyte, of which four numbers are wanted; and the same where all of it is announced.
    let bomb =
        |pickle: &[u8]| zipped(&[("a/data.pkl", pickle, 1), ("a/data/0", &[0; 1 << 20], 256)], DEFLATED);
    assert!(bomb(&good).len() < 1 << 20);
    fails(&bomb(&good), "more than the 16 bytes");
    fails(&bomb(&pickle(64 << 20, 0, &[4], &[1])), "far more memory");
    assert_eq!(
        read(&zipped(&[("a/data.pkl", &good, 1), ("a/data/0", data, 1)], DEFLATED)).unwrap().tensors["w"]
            .dims(),
        [4]
    );
}

/// Bytes of an archive of one tensor that torch.save wrote without checksums, or that were changed since.
#[test]
fn a_storage_is_held_to_its_checksum() {
    let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let good = archive(&[("a/data.pkl", &pickle(4, 0, &[4], &[1])), ("a/data/0", &data)]);
    assert_eq!(values(&read(&good).unwrap().tensors["w"]), [1.0, 2.0, 3.0, 4.0]);
    let at = good.windows(data.len()).position(|part| part == data).unwrap();
    let mut damaged = good.clone();
    damaged[at] ^= 1;
    fails(&damaged, "a/data/0: damaged: its checksum is another");
    // `torch.serialization.set_crc32_options(False)` leaves zeros in its place.
    let mut unchecked = damaged;
    let check = crc32fast::hash(&data).to_le_bytes();
    while let Some(at) = unchecked.windows(4).position(|part| part == check) {
        unchecked[at..at + 4].fill(0);
    }
    assert_eq!(values(&read(&unchecked).unwrap().tensors["w"])[1..], [2.0, 3.0, 4.0]);
}

/// torch writes its archives' ends as zip64 has them, whose places must not be mistaken for others, whatever the file's name is long.
#[test]
fn an_archive_of_any_name_is_read() {
    let golden = golden("checkpoint-zip.pth");
    for length in 1..64 {
        let renamed = zip64::renamed(&golden, "checkpoint-zip", &"n".repeat(length));
        assert_eq!(read(&renamed).unwrap().tensors.len(), 15, "{length}");
    }
}

/// Numbers of which a tensor is the negative, and the older format as later protocols frame it.
#[test]
fn what_newer_pickles_say_is_understood() {
    let good = pickle(4, 0, &[4], &[1]);
    // Behind requires_grad and the hooks.
    let (before, end) = good.split_at(good.len() - 4);
    let marked = [before, b"}X\x03\0\0\0neg\x88s", end].concat();
    let file = |pickle: &[u8]| archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])]);
    fails(&file(&marked), "marked `neg`");
    let unmarked = [before, b"}X\x03\0\0\0neg\x89s", end].concat();
    assert_eq!(read(&file(&unmarked)).unwrap().tensors["w"].dims(), [4]);

    let legacy = golden("checkpoint-legacy.pth");
    let framed = [&[0x80, 4, 0x95, 13, 0, 0, 0, 0, 0, 0, 0][..], &legacy[2..]].concat();
    assert_eq!(read(&framed).unwrap().tensors.len(), 15);
}

/// Two names that torch keeps apart are one when they are joined: neither may vanish.
#[test]
fn two_tensors_of_one_joined_name_are_refused() {
    let tensor = pickle(4, 0, &[4], &[1]);
    // Behind `}(`, and before `u.`.
    let inner = &tensor[4..tensor.len() - 2];
    let text = |s: &str| [&[b'X'][..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    let value = &inner[text("w").len()..];
    let file =
        [&[0x80, 2, b'}', b'('][..], &text("a"), b"}(", &text("w"), value, b"u", &text("a.w"), value, b"u."]
            .concat();
    fails(&archive(&[("a/data.pkl", &file), ("a/data/0", &[0; 16])]), "two tensors `a.w`");
}

/// Texts that a pickle holds once and uses often, and dictionaries as Python 2 wrote them.
#[test]
fn pickles_are_read_in_bounded_memory_and_with_old_dictionaries() {
    let tensor = pickle(4, 0, &[4], &[1]);
    let pair = &tensor[4..tensor.len() - 2];
    // collections.OrderedDict([[key, value]])
    let old = [b"\x80\x02ccollections\nOrderedDict\n](]("[..].as_ref(), pair, b"ee\x85R."].concat();
    let archive_of = |pickle: &[u8]| archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])]);
    assert_eq!(read(&archive_of(&old)).unwrap().tensors["w"].dims(), [4]);
    // A list's tensors are there too: 1 is the second.
    let list = [&[0x80, 2, b']', b'(', b'N'][..], &pair[6..], b"e."].concat();
    assert_eq!(read(&archive_of(&list)).unwrap().tensors["1"].dims(), [4]);
    let text = |s: &[u8]| [&[b'X'][..], &(s.len() as u32).to_le_bytes(), s].concat();
    let long = vec![b'a'; 1 << 20];
    let mut echo = [&[0x80, 2, b'}', b'('][..], pair, &text(b"0"), &text(&long), &[b'q', 0]].concat();
    for key in 1..=250u8 {
        echo.extend([text(&[b'b', b'a' + key % 20, b'a' + key / 20]), vec![b'h', 0]].concat());
    }
    echo.extend(b"u.");
    assert_eq!(read(&archive_of(&echo)).unwrap().metadata.len(), 0);
    // A tensor of no numbers under very many long names.
    let empty = pickle(4, 0, &[0], &[1]);
    let empty = &empty[10..empty.len() - 2];
    let mut crowd =
        [&[0x80, 2, b'}', b'('][..], &text(&[b'z'; 900]), b"}(", &text(b"first"), empty, b"q\0"].concat();
    for name in 0..5000u32 {
        crowd.extend([text(name.to_string().as_bytes()), vec![b'h', 0]].concat());
    }
    crowd.extend(b"uu.");
    fails(&archive_of(&crowd), "far more memory than the file");
    let named = [&[0x80, 2, b'}', b'('][..], &text(&long), &pair[6..], b"u."].concat();
    fails(&archive_of(&named), "a name has more than 1024 bytes");
}

#[test]
fn pickles_that_explode_or_go_in_circles_are_refused() {
    let file = |pickle: &[u8]| archive(&[("a/data.pkl", pickle)]);
    // Sixty dictionaries, each of which holds the one before twice: 2⁶⁰ leaves.
    let mut laughs = vec![0x80, 2, b'}', b'q', 0];
    for level in 0..60u8 {
        laughs.extend([b'}', b'q', level + 1, b'(']);
        for key in [b'a', b'b'] {
            laughs.extend([b'X', 1, 0, 0, 0, key, b'h', level]);
        }
        laughs.push(b'u');
    }
    laughs.push(b'.');
    fails(&file(&laughs), "levels");
    // The same in few levels but many places.
    let mut wide = vec![0x80, 2, b'}', b'q', 0];
    for level in 0..20u8 {
        wide.extend([b'}', b'q', level + 1, b'(']);
        for key in 0..20 {
            wide.extend([b'X', 1, 0, 0, 0, b'a' + key, b'h', level]);
        }
        wide.push(b'u');
    }
    wide.push(b'.');
    fails(&file(&wide), "too many places");
    // Keys that are no names, in many places.
    let mut nameless = vec![0x80, 2, b']', b'q', 0, b'0', b'}', b'q', 1, b'('];
    nameless.extend(b"NN".repeat(2000));
    nameless.extend([b'u', b'0', b'h', 0, b'(']);
    nameless.extend([b'h', 1].repeat(2000));
    nameless.extend(b"e.");
    fails(&file(&nameless), "too many places");
    // A dictionary that holds itself.
    fails(&file(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."), "levels");
    let deep: Vec<u8> =
        [0x80, 2].into_iter().chain(b"}X\x01\x00\x00\x00a".repeat(5000)).chain([b'N', b'.']).collect();
    fails(&file(&deep), "no tensor");
    let mut nested = vec![0x80, 2];
    nested.extend(b"}X\x01\x00\x00\x00a".repeat(5000));
    nested.extend([b'}']);
    nested.extend([b's'].repeat(5000));
    nested.push(b'.');
    fails(&file(&nested), "levels");
    for (pickle, part) in [
        (&b"\x80\x02\xf0."[..], "opcode 0xf0"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02h\x05.", "memorised"),
        (b"\x80\x02.", "a value is wanted"),
        (b"\x80\x02t.", "mark"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "it ends within"),
        (b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.", "it ends within"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x80\x02}(NNNu.", "no value"),
        (b"\x80\x02NNa.", "no list"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "`os.system`"),
        (b"\x80\x02X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93.", "`builtins.eval`"),
    ] {
        fails(&file(pickle), part);
    }
    fails(&file(b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u."), "two entries `a`");
    fails(&file(&[&[0x80, 2][..], &b"N".repeat(1_500_000), b"."].concat()), "more than");
}

/// A safetensors file of a header and some bytes of data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_that_lie_are_refused() {
    let one = |shape: &str, from: usize, to: usize| {
        format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let data = [0u8; 16];
    assert_eq!(read(&safetensors(&one("[2,2]", 0, 16), &data)).unwrap().tensors["w"].dims(), [2, 2]);
    let two = |a: [usize; 2], b: [usize; 2], names: [&str; 2]| {
        let part = |name: &str, [from, to]: [usize; 2]| {
            format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
        };
        format!("{{{},{}}}", part(names[0], a), part(names[1], b))
    };
    assert_eq!(read(&safetensors(&two([0, 8], [8, 16], ["a", "b"]), &data)).unwrap().tensors.len(), 2);
    // What candle has no dtype for.
    let other = |dtype: &str| {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,2]}}}}"#);
        read(&safetensors(&header, &[1, 0xff])).unwrap().tensors["w"].clone()
    };
    assert_eq!((other("BOOL").dtype(), values(&other("BOOL"))), (DType::U8, vec![1.0, 255.0]));
    assert_eq!((other("I8").dtype(), values(&other("I8"))), (DType::I64, vec![1.0, -1.0]));
    let deep = "[".repeat(100_000);
    for (bytes, part) in [
        (safetensors(&one("[4]", 0, 400), &data), "safetensors"),
        (safetensors(&one("[4]", 16, 0), &data), "safetensors"),
        (safetensors(&one("[5]", 0, 16), &data), "safetensors"),
        (safetensors(&one("[4294967296,4294967296,4294967296]", 0, 16), &data), "safetensors"),
        (safetensors(&one("[9223372036854775807,2]", 0, 16), &data), "safetensors"),
        (safetensors(&one("[10737418240]", 0, 42_949_672_960), &data), "safetensors"),
        (safetensors(&one("[0,1099511627776,1099511627776]", 0, 0), &[]), "too large"),
        (safetensors(&one("[-4]", 0, 16), &data), "safetensors"),
        (safetensors(&two([0, 8], [4, 12], ["a", "b"]), &data), "safetensors"),
        (safetensors(&two([0, 8], [8, 16], ["a", "a"]), &data), "two tensors `a`"),
        (safetensors(&format!("{{\"a\":{deep}"), &data), "safetensors"),
        ([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "safetensors"),
        ([&(10u64 << 30).to_le_bytes()[..], b"{}"].concat(), "safetensors"),
    ] {
        fails(&bytes, part);
    }
}

#[test]
fn shards_are_one_file_and_their_index_is_held_to() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, tensors: &[(&str, f32)]| {
        let tensors: HashMap<String, Tensor> = tensors
            .iter()
            .map(|(name, v)| ((*name).to_owned(), Tensor::new(&[*v], &Device::Cpu).unwrap()))
            .collect();
        weights::write(&folder.path().join(name), &WeightFile { tensors, metadata: BTreeMap::new() })
            .unwrap();
    };
    write("one.safetensors", &[("a", 1.0), ("b", 2.0)]);
    write("two.safetensors", &[("c", 3.0)]);
    let read = |map: &str| {
        let path = folder.path().join("model.safetensors.index.json");
        std::fs::write(&path, format!(r#"{{"metadata": {{"total_size": 12}}, "weight_map": {{{map}}}}}"#))
            .unwrap();
        weights::read(&path, &Device::Cpu).map_err(|e| e.to_string())
    };
    let whole = r#""a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors""#;
    let file = read(whole).unwrap();
    assert_eq!(file.tensors.len(), 3);
    assert_eq!(values(&file.tensors["c"]), [3.0]);
    for (map, part) in [
        (r#""a": "one.safetensors", "c": "two.safetensors""#, "`b` lies in one.safetensors"),
        (r#""a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors""#, "`c` is not in one"),
        (r#""a": "three.safetensors""#, "three.safetensors"),
        (r#""a": "../one.safetensors""#, "not a file beside it"),
        (r#""a": "/one.safetensors""#, "not a file beside it"),
    ] {
        let error = read(map).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
    assert!(weights::read(Path::new("."), &Device::Cpu).is_err());
}
