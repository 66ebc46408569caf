//! Which of a model's files are its weights.

use super::spec::{self, HubSpec};
use crate::{Error, Result, nearest};

/// Weights by name, best first: ours, then those that are never executed.
const WEIGHTS: &[&str] = &[
    "encoder.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Endings of weights of other names.
const ENDINGS: &[&str] = &[".safetensors", ".pth", ".pth.tar", ".pt", ".bin", ".ckpt"];

/// Endings of weights that are not read.
const UNREAD: &[&str] = &[".h5", ".keras", ".msgpack", ".onnx", ".gguf", ".tflite", ".pb", ".npz", ".pkl"];

/// The file that is meant, of those that are there; an error says that `who` lacks it.
pub fn choose(spec: &HubSpec, files: &[&str], who: &str) -> Result<String> {
    let fail = |problem: String| Err(Error::Hub { what: spec.to_string(), problem });
    let files: Vec<&str> = files.iter().copied().filter(|file| spec::is_path(file)).collect();
    if let Some(file) = &spec.file {
        if files.contains(&file.as_str()) {
            return Ok(file.clone());
        }
        let near = nearest(file, files.iter().copied());
        let near = near.map(|near| format!("; is it `{near}`?")).unwrap_or_default();
        return fail(format!("{who} has no file `{file}`{near}"));
    }
    if let Some(file) = WEIGHTS.iter().find(|name| files.contains(name)) {
        return Ok((*file).to_owned());
    }
    let has_ending = |file: &str, endings: &[&str]| endings.iter().any(|ending| file.ends_with(ending));
    let (weights, all): (Vec<&str>, Vec<&str>) =
        files.into_iter().partition(|file| has_ending(file, ENDINGS));
    match weights[..] {
        [] => {
            let others: Vec<&str> = all.into_iter().filter(|file| has_ending(file, UNREAD)).collect();
            fail(match others[..] {
                [] => format!("{who} has no weight file of a known kind"),
                _ => format!(
                    "{who} has only weights of kinds that are not read here: {} (safetensors and PyTorch's are; Keras's from TensorFlow.js)",
                    others.join(", ")
                ),
            })
        }
        [file] => Ok(file.to_owned()),
        _ => fail(format!("which of its weight files? Write {spec}:FILE; they are {}", weights.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_weights_are_chosen() {
        let spec = |text: &str| text.parse::<HubSpec>().unwrap();
        let chosen = |files: &[&str]| choose(&spec("hf:o/n"), files, "it");
        assert_eq!(
            chosen(&["README.md", "pytorch_model.bin", "model.safetensors"]).unwrap(),
            "model.safetensors"
        );
        assert_eq!(chosen(&["a/b.pth.tar", "config.json"]).unwrap(), "a/b.pth.tar");
        let two = chosen(&["a.pth", "b.pth"]).unwrap_err().to_string();
        assert!(two.contains("hf:o/n:FILE") && two.contains("a.pth, b.pth"), "{two}");
        let none = chosen(&["README.md"]).unwrap_err().to_string();
        assert!(none.contains("no weight file"), "{none}");
        let keras = chosen(&["README.md", "tf_model.h5"]).unwrap_err().to_string();
        assert!(keras.contains("not read here: tf_model.h5 ("), "{keras}");
        // What a hostile listing calls a file never becomes a path.
        assert!(chosen(&["../../model.pth", "/etc/a.pth"]).is_err());
        let near =
            choose(&spec("hf:o/n:model.safetensor"), &["model.safetensors"], "it").unwrap_err().to_string();
        assert!(near.contains("is it `model.safetensors`?"), "{near}");
    }
}
