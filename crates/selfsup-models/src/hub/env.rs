//! What the environment says of the hub, by the names that `huggingface_hub` reads.

use super::{ENDPOINT, Hub, clean};
use std::env::var_os;
use std::ffi::OsString;
use std::path::PathBuf;

impl Hub {
    /// As `huggingface_hub` is told by the environment, where a variable that is empty is none:
    ///
    /// | | |
    /// |---|---|
    /// | the hub | `HF_ENDPOINT`, else [`ENDPOINT`] |
    /// | the cache | `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else in `huggingface` in `XDG_CACHE_HOME` or `~/.cache` |
    /// | the token | `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else what the file `HF_TOKEN_PATH` or `token` in `HF_HOME` holds; none if `HF_HUB_DISABLE_IMPLICIT_TOKEN` |
    /// | from the cache alone | `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE` |
    ///
    /// In folders and files a leading `~` and `$NAME` or `${NAME}` are what they are in a shell.
    pub fn from_env() -> Self {
        Self::from(|name| var_os(name).filter(|value| !value.is_empty()))
    }

    fn from(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let user = || var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| var(name).map(|value| expand(value, &user(), &var));
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        let yes = |name: &str| {
            text(name).is_some_and(|value| {
                matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
            })
        };
        let home = path("HF_HOME").unwrap_or_else(|| {
            let cache = path("XDG_CACHE_HOME");
            cache.unwrap_or_else(|| user().unwrap_or_default().join(".cache")).join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.unwrap_or_else(|| home.join("hub"));
        // Each is cleaned before it is chosen: of spaces alone there is no token.
        let said = |name: &str| text(name).and_then(|token| clean(&token));
        let token = said("HF_TOKEN").or_else(|| said("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            std::fs::read_to_string(file).ok()
        });
        let token = token.filter(|_| !yes("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        // `HF_HUB_OFFLINE=0` overrules the other.
        let offline = var("HF_HUB_OFFLINE").map_or("TRANSFORMERS_OFFLINE", |_| "HF_HUB_OFFLINE");
        let hub = Self::new(&text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()), &cache);
        hub.token(token).offline(yes(offline))
    }
}

/// A path with a leading `~` and variables as a shell has them; of what is not set it keeps the name, as Python does.
fn expand(path: OsString, user: &Option<PathBuf>, var: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    // What is no text names no variable.
    let Some(text) = path.to_str() else { return path.into() };
    let text = match (text.strip_prefix('~'), user.as_ref().and_then(|user| user.to_str())) {
        (Some(rest), Some(user)) if rest.is_empty() || rest.starts_with(['/', '\\']) => {
            format!("{user}{rest}")
        }
        _ => text.to_owned(),
    };
    let (mut whole, mut rest) = (String::new(), text.as_str());
    while let Some((front, back)) = rest.split_once('$') {
        whole += front;
        let plain = back.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(back.len());
        let (name, after) = match back.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => back.split_at(plain),
        };
        match var(name).and_then(|value| value.into_string().ok()).filter(|_| !name.is_empty()) {
            Some(value) => whole += &value,
            None => whole.extend(["$", &back[..back.len() - after.len()]]),
        }
        rest = after;
    }
    (whole + rest).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn hub(vars: &[(&str, &str)]) -> Hub {
        let vars: Vec<(String, OsString)> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Hub::from(|name| vars.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let plain = hub(&[("HOME", "/home/u")]);
        assert_eq!(plain.cache, Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(plain.client.endpoint, ENDPOINT);
        assert_eq!((plain.client.token.as_deref(), plain.offline), (None, false));

        let set = hub(&[
            ("HOME", "/home/u"),
            ("HF_HOME", "/data/hf"),
            ("HF_ENDPOINT", "http://mirror:8080/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(set.cache, Path::new("/data/hf/hub"));
        assert_eq!(set.client.endpoint, "http://mirror:8080");
        assert_eq!((set.client.token.as_deref(), set.offline), (Some("hf_secret"), true));

        let cache = hub(&[("HF_HOME", "/data/hf"), ("HF_HUB_CACHE", "/fast"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((cache.cache.as_path(), cache.offline), (Path::new("/fast"), false));
        assert_eq!(hub(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
    }

    #[test]
    fn a_token_is_read_from_its_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap().to_owned();
        assert_eq!(hub(&[("HF_HOME", &home)]).client.token.as_deref(), Some("hf_file"));
        assert_eq!(hub(&[("HF_HOME", &home), ("HF_TOKEN", "t")]).client.token.as_deref(), Some("t"));
    }

    #[test]
    fn older_names_are_read_after_newer_ones() {
        let cache = |vars: &[(&str, &str)]| hub(vars).cache;
        let (new, old) = (("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old"));
        assert_eq!(cache(&[("HF_HOME", "/h"), old]), Path::new("/old"));
        assert_eq!(cache(&[old, new]), Path::new("/new"));

        let token = |vars: &[(&str, &str)]| hub(vars).client.token;
        let (new, old) = (("HF_TOKEN", "new"), ("HUGGING_FACE_HUB_TOKEN", "old"));
        assert_eq!(token(&[old]).as_deref(), Some("old"));
        assert_eq!(token(&[old, new]).as_deref(), Some("new"));
        assert_eq!(token(&[("HF_TOKEN", "\n"), old]).as_deref(), Some("old"));
        assert_eq!(token(&[("HF_TOKEN", "a\r\nb ")]).as_deref(), Some("ab"));
        assert_eq!(token(&[new, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[new, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")]).as_deref(), Some("new"));

        let offline = |vars: &[(&str, &str)]| hub(vars).offline;
        assert!(offline(&[("TRANSFORMERS_OFFLINE", "1")]));
        assert!(!offline(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]));
        assert!(offline(&[("TRANSFORMERS_OFFLINE", "0"), ("HF_HUB_OFFLINE", "1")]));
    }

    #[test]
    fn paths_are_what_a_shell_makes_of_them() {
        for (path, expected) in [
            ("~/hf", "/home/u/hf"),
            ("~", "/home/u"),
            ("~other/hf", "~other/hf"),
            ("/a/~/b", "/a/~/b"),
            ("$DATA/hf", "/data/hf"),
            ("/x/${DATA}_$DATA/hf", "/x//data_/data/hf"),
            ("$DATAX/$/${DATA", "$DATAX/$/${DATA"),
        ] {
            for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
                let hub = hub(&[("HOME", "/home/u"), ("DATA", "/data"), (name, path)]);
                assert_eq!(hub.cache, Path::new(expected), "{path}");
            }
        }
        assert_eq!(hub(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).cache, Path::new("/h/hf/hub"));
        assert_eq!(
            hub(&[("HOME", "/h"), ("XDG_CACHE_HOME", "$HOME/c")]).cache,
            Path::new("/h/c/huggingface/hub")
        );
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("key"), "hf_file").unwrap();
        let vars = [("HOME", home.path().to_str().unwrap()), ("HF_TOKEN_PATH", "~/key")];
        assert_eq!(hub(&vars).client.token.as_deref(), Some("hf_file"));
    }

    #[test]
    fn a_token_is_not_in_a_log() {
        let shown = format!("{:?}", hub(&[("HF_TOKEN", "hf_secret"), ("HF_ENDPOINT", "http://mirror")]));
        assert!(!shown.contains("hf_secret") && shown.contains("http://mirror"), "{shown}");
    }
}
