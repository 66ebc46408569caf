//! The licence of a published encoder, as the hub wants to be told.

use crate::failure::{Failure, Result};
use anyhow::anyhow;
use selfsup_train::nearest;

/// What the hub's metadata of a model may say (huggingface.co/docs/hub/repositories-licenses), but for the licences of single models.
const IDS: &[&str] = &[
    "afl-3.0",
    "agpl-3.0",
    "apache-2.0",
    "artistic-2.0",
    "bigcode-openrail-m",
    "bigscience-openrail-m",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "bsl-1.0",
    "c-uda",
    "cc",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "cdla-sharing-1.0",
    "creativeml-openrail-m",
    "ecl-2.0",
    "epl-1.0",
    "epl-2.0",
    "etalab-2.0",
    "eupl-1.1",
    "eupl-1.2",
    "gfdl",
    "gpl",
    "gpl-2.0",
    "gpl-3.0",
    "isc",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "lppl-1.3c",
    "mit",
    "mpl-2.0",
    "ms-pl",
    "ncsa",
    "odbl",
    "odc-by",
    "ofl-1.1",
    "openrail",
    "openrail++",
    "osl-3.0",
    "other",
    "pddl",
    "postgresql",
    "unknown",
    "unlicense",
    "wtfpl",
    "zlib",
];

/// A licence: one that the hub knows, or another with its name and, if there is one, its text's address.
pub struct License {
    id: String,
    name: Option<String>,
    link: Option<String>,
}

impl License {
    /// Of the command's arguments.
    pub fn of(id: Option<&str>, name: Option<&str>, link: Option<&str>) -> Result<Option<Self>> {
        let Some(id) = id else { return Ok(None) };
        if !IDS.contains(&id) {
            let near = nearest(&id.to_lowercase(), IDS.iter().copied())
                .map(|id| format!(" (is it `{id}`?)"))
                .unwrap_or_default();
            let why = format!(
                "the hub knows no licence `{id}`{near}; of another, --license other --license-name NAME says the name"
            );
            return Err(Failure::Usage(anyhow!(why)));
        }
        if (id == "other") != name.is_some() {
            return Err(Failure::Usage(anyhow!(
                "--license other and --license-name NAME are given together"
            )));
        }
        Ok(Some(Self { id: id.to_owned(), name: name.map(str::to_owned), link: link.map(str::to_owned) }))
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// Its lines of a card's front matter.
    pub fn front(&self) -> String {
        // A JSON text is a YAML text.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!("license: {}\n", self.id);
        for (field, value) in [("license_name", &self.name), ("license_link", &self.link)] {
            if let Some(value) = value {
                text += &format!("{field}: {}\n", quoted(value));
            }
        }
        text
    }
}
