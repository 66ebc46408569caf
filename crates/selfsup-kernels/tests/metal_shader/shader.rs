//! Metal source compiled as C++: a stand-in for the GPU that the launch code runs on.
//!
//! A kernel's parameters are read from the source: what `[[buffer(2)]]` or `[[thread_index_in_simdgroup]]` names is
//! what the kernel is called with, and memory that the launch code says is read must be `const` there.

use crate::launch::{Argument, Device, Sizes, THREADS};
use crate::roles::Role;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

pub const SOURCE: &str = include_str!("../../src/info_nce/info_nce.metal");

/// Words before and after each buffer that no kernel may touch.
const GUARD: usize = 256;
const UNTOUCHED: u32 = 0x7fc0_abcd;

type Run = unsafe extern "C" fn(*const c_char, *const *mut c_void, usize, u32, u32, u32) -> *const c_char;

/// A compiled shader.
pub struct Shader {
    library: libloading::Library,
    kernels: HashMap<String, Vec<Parameter>>,
}

/// One of a kernel's parameters: `[[attribute]]`, and its type with what surrounds it.
struct Parameter {
    attribute: String,
    index: Option<usize>,
    declaration: String,
}

impl Shader {
    /// None if there is no C++ compiler. `name` tells the files of several shaders apart.
    pub fn compile(source: &str, name: &str) -> Option<Self> {
        let compiler = compiler()?;
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metal_shader");
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("metal_shader_{name}"));
        std::fs::create_dir_all(&out).unwrap();
        let kernels = kernels(source);
        std::fs::write(out.join("shader.metal"), without_attributes(source)).unwrap();
        std::fs::write(out.join("kernels.inc"), calls(&kernels)).unwrap();
        let library = out.join("libshader.so");
        let result = Command::new(compiler)
            .args([
                "-std=c++17",
                "-O1",
                "-shared",
                "-fPIC",
                "-ffp-contract=off",
                "-D_XOPEN_SOURCE=700",
                "-D_DARWIN_C_SOURCE",
            ])
            .arg("-I")
            .arg(&out)
            .arg("-I")
            .arg(&here)
            .arg(here.join("host.cpp"))
            .arg("-o")
            .arg(&library)
            .output()
            .unwrap();
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        // SAFETY: the library is the one just compiled; loading it runs no code but the C++ runtime's.
        let library = unsafe { libloading::Library::new(library).unwrap() };
        Some(Self { library, kernels })
    }
}

/// The first compiler that answers.
fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    named.into_iter().chain(["c++", "g++", "clang++"].map(String::from)).find(|compiler| {
        Command::new(compiler).arg("--version").output().is_ok_and(|answer| answer.status.success())
    })
}

/// C++ has no such attributes, and `threadgroup` is a macro; what they say is read by [`kernels`].
fn without_attributes(source: &str) -> String {
    let mut parts = source.split("[[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + part.split_once("]]").unwrap().1)
}

/// The kernels of a source, with their parameters.
fn kernels(source: &str) -> HashMap<String, Vec<Parameter>> {
    let code: String = source.lines().map(|l| l.split("//").next().unwrap().to_owned() + "\n").collect();
    let heads = code.split("kernel void ").skip(1).map(|rest| rest.split('{').next().unwrap());
    heads
        .map(|head| {
            let (name, parameters) = head.split_once('(').unwrap();
            let parameters = parameters.trim_end().strip_suffix(')').unwrap();
            (name.to_owned(), parameters.split(',').map(Parameter::parse).collect())
        })
        .collect()
}

impl Parameter {
    fn parse(text: &str) -> Self {
        let (declaration, attribute) = text.split_once("[[").expect("every parameter has an attribute");
        let attribute = attribute.trim_end().strip_suffix("]]").unwrap();
        let (attribute, index) = match attribute.split_once('(') {
            Some((name, index)) => (name, Some(index.trim_end_matches(')').parse().unwrap())),
            None => (attribute, None),
        };
        // The last word is the parameter's name.
        let declaration = declaration.trim().rsplit_once(' ').unwrap().0.to_owned();
        Self { attribute: attribute.to_owned(), index, declaration }
    }

    /// What the kernel is called with, in C++.
    fn value(&self) -> String {
        let declaration = &self.declaration;
        match (self.attribute.as_str(), self.index) {
            ("buffer", Some(i)) => match declaration.strip_suffix('&') {
                Some(value) => format!("*({value}*)buffers[{i}]"),
                None => format!("({declaration})buffers[{i}]"),
            },
            ("threadgroup", Some(0)) => format!("({declaration})shared"),
            (number, None) => format!("ids.{number}"),
            (other, index) => panic!("unknown attribute {other}, {index:?}"),
        }
    }
}

/// The C++ that calls each kernel.
fn calls(kernels: &HashMap<String, Vec<Parameter>>) -> String {
    let mut text = String::from("#include \"shader.metal\"\n");
    for (name, parameters) in kernels {
        let values: Vec<String> = parameters.iter().map(Parameter::value).collect();
        text += &format!("static void call_{name}(void* const* buffers, void* shared, const Ids& ids)\n");
        text += &format!("{{ (void)shared; {name}({}); }}\n", values.join(", "));
    }
    // The shim's words end here.
    for word in ["kernel", "device", "threadgroup", "thread", "constant"] {
        text += &format!("#undef {word}\n");
    }
    let table: String = kernels.keys().map(|name| format!("{{\"{name}\", call_{name}}}, ")).collect();
    text + "static const Kernel KERNELS[] = {" + &table + "};\n"
}

/// The shader with an order for the threads: 0 ascending, 1 descending, others shuffled.
pub struct Emulator<'a> {
    pub shader: &'a Shader,
    pub order: u32,
    /// Numbers allocated so far.
    pub allocated: Cell<usize>,
}

/// Memory in words, between guards.
#[derive(Clone)]
pub struct Buffer(Rc<RefCell<Vec<u32>>>);

impl Buffer {
    fn new(words: impl Iterator<Item = u32>) -> Self {
        let guard = || std::iter::repeat_n(UNTOUCHED, GUARD);
        Self(Rc::new(RefCell::new(guard().chain(words).chain(guard()).collect())))
    }

    pub fn from_floats(values: &[f32]) -> Self {
        Self::new(values.iter().map(|v| v.to_bits()))
    }

    pub fn to_floats(&self) -> Vec<f32> {
        let words = self.0.borrow();
        words[GUARD..words.len() - GUARD].iter().map(|w| f32::from_bits(*w)).collect()
    }

    fn pointer(&self) -> *mut c_void {
        self.0.borrow_mut()[GUARD..].as_mut_ptr().cast()
    }

    fn untouched(&self) -> bool {
        let words = self.0.borrow();
        let (before, after) = (&words[..GUARD], &words[words.len() - GUARD..]);
        before.iter().chain(after).all(|w| *w == UNTOUCHED)
    }
}

impl Device for Emulator<'_> {
    type Buffer = Buffer;
    type Error = String;

    fn floats(&self, len: usize) -> Result<Buffer, String> {
        self.allocated.set(self.allocated.get() + len);
        Ok(Buffer::new(std::iter::repeat_n(f32::NAN.to_bits(), len)))
    }

    fn roles(&self, roles: &[Role]) -> Result<Buffer, String> {
        Ok(Buffer::new(roles.iter().flat_map(Role::words)))
    }

    fn run(
        &self,
        kernel: &'static str,
        arguments: &[Argument<'_, Buffer>],
        shared: usize,
        groups: usize,
    ) -> Result<(), String> {
        let parameters = self.shader.kernels[kernel].iter().filter(|p| p.attribute == "buffer");
        assert_eq!(parameters.clone().count(), arguments.len(), "{kernel}: arguments");
        let mut values: Vec<[u32; 4]> = arguments.iter().map(constants).collect();
        let mut pointers = vec![std::ptr::null_mut(); arguments.len()];
        let of = |wanted: bool| {
            arguments.iter().filter_map(move |a| match a {
                Argument::In(b) if !wanted => Some(*b),
                Argument::Out(b) if wanted => Some(*b),
                _ => None,
            })
        };
        for out in of(true) {
            let same = |other: &Buffer| Rc::ptr_eq(&out.0, &other.0);
            assert_eq!(of(true).chain(of(false)).filter(|b| same(b)).count(), 1, "{kernel}: aliases");
        }
        for (parameter, argument) in parameters.zip(arguments) {
            let i = parameter.index.unwrap();
            let writes =
                parameter.declaration.starts_with("device ") && !parameter.declaration.contains("const");
            assert_eq!(matches!(argument, Argument::Out(_)), writes, "{kernel}: argument {i} is written");
            assert!(std::ptr::eq(argument, &arguments[i]), "{kernel}: parameters in another order");
            pointers[i] = match argument {
                Argument::In(buffer) | Argument::Out(buffer) => buffer.pointer(),
                _ => values[i].as_mut_ptr().cast(),
            };
        }
        let name = CString::new(kernel).unwrap();
        // SAFETY: `run` has this type in host.cpp. It reads and writes what the pointers lead to, which lives until it
        // returns and is not used otherwise meanwhile; a kernel that goes beyond a buffer's end by less than the
        // guard is found below.
        let failure = unsafe {
            let run = self.shader.library.get::<Run>(b"run").unwrap();
            let failure =
                run(name.as_ptr(), pointers.as_ptr(), shared, groups as u32, THREADS as u32, self.order);
            (!failure.is_null()).then(|| CStr::from_ptr(failure).to_string_lossy().into_owned())
        };
        if let Some(failure) = failure {
            return Err(format!("{kernel}: {failure}"));
        }
        match of(true).all(Buffer::untouched) {
            true => Ok(()),
            false => Err(format!("{kernel}: a write outside of a buffer")),
        }
    }
}

fn constants(argument: &Argument<'_, Buffer>) -> [u32; 4] {
    match argument {
        Argument::U32(value) => [*value, 0, 0, 0],
        Argument::F32(value) => [value.to_bits(), 0, 0, 0],
        Argument::Sizes(Sizes { n, m, d, depth }) => [*n, *m, *d, *depth],
        Argument::In(_) | Argument::Out(_) => [0; 4],
    }
}
