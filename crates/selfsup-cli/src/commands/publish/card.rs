//! The model card: what an encoder is, how it was trained and what its features are worth, for who finds it on the hub.

use super::license::License;
use crate::closing_table::ClosingTable;
use crate::source::SourceName;
use selfsup_models::publish::Library;
use selfsup_models::{Encoder, Network};
use selfsup_train::{METHODS, PretrainConfig, metrics};
use std::fmt::Write;

/// What a card is made of.
pub struct Card<'a> {
    /// `OWNER/NAME`.
    pub repo: String,
    pub license: Option<&'a License>,
    pub library: Library,
    pub encoder: &'a Encoder,
    pub config: &'a PretrainConfig,
    /// Of the weights, which an interrupted run may have of an earlier step than its last record.
    pub steps: u64,
    /// The run's.
    pub records: Vec<metrics::Record>,
    pub table: Option<&'a ClosingTable>,
}

impl Card<'_> {
    /// `README.md`.
    pub fn text(&self) -> String {
        let mut text = self.front();
        let (arch, method) = (self.encoder.arch().name, self.config.method.name());
        let info = METHODS.iter().find(|info| info.name == method);
        let name = self.repo.rsplit('/').next().unwrap_or(&self.repo);
        let paper = info.map_or_else(String::new, |info| format!(" ({}, {})", info.title, info.paper));
        let version = env!("CARGO_PKG_VERSION");
        text += &format!(
            "# {name}\n\nAn image encoder, {arch}, pretrained without labels by `{method}`{paper}, with selfsup {version}. \
             It maps an image of {side}×{side} pixels to {dim} features.\n\n",
            side = self.encoder.preprocessing().image_size,
            dim = self.encoder.feature_dim(),
        );
        text += &self.usage();
        text += &self.worth();
        text += &self.training();
        text
    }

    /// The run's settings, without where on a machine its files lay: a file of orders is published beside them.
    pub fn settings(&self) -> String {
        PretrainConfig { data: source(&self.config.data), ..self.config.kept().0 }.to_toml()
    }

    fn front(&self) -> String {
        let mut text = "---\n".to_owned();
        if let Some(license) = self.license {
            text += &license.front();
        }
        text += &format!(
            "library_name: {}\npipeline_tag: image-feature-extraction\ntags:\n",
            self.library.name()
        );
        for tag in
            ["self-supervised-learning", "selfsup", self.config.method.name(), self.encoder.arch().name]
        {
            text += &format!("- {tag}\n");
        }
        text + "---\n\n"
    }

    fn usage(&self) -> String {
        let repo = &self.repo;
        let python = match self.library {
            Library::Timm => format!(
                "import timm\n\n\
                 model = timm.create_model(\"hf-hub:{repo}\", pretrained=True).eval()\n\
                 transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)\n\
                 features = model(transform(image).unsqueeze(0))  # a PIL image in RGB"
            ),
            Library::Transformers | Library::Code => {
                let trust = if self.library == Library::Code { ", trust_remote_code=True" } else { "" };
                let features = match self.encoder.network() {
                    Network::Vit(_) => "last_hidden_state[:, 0]",
                    _ => "pooler_output.flatten(1)",
                };
                format!(
                    "from transformers import AutoImageProcessor, AutoModel\n\n\
                     processor = AutoImageProcessor.from_pretrained(\"{repo}\")\n\
                     model = AutoModel.from_pretrained(\"{repo}\"{trust}).eval()\n\
                     features = model(**processor(image, return_tensors=\"pt\")).{features}"
                )
            }
        };
        let p = self.encoder.preprocessing();
        format!(
            "## Use\n\n```python\n{python}\n```\n\n```sh\nselfsup probe hf:{repo} --data YOUR_LABELLED_IMAGES\n```\n\n\
             Images: the shorter side resized to {resize} pixels, the central square of {side}, mean {:?} and standard deviation {:?} of the \
             channels in 0…1.\n\n",
            p.mean,
            p.std,
            resize = p.resize,
            side = p.image_size,
        )
    }

    fn worth(&self) -> String {
        let Some(table) = self.table else { return String::new() };
        let mut text = format!(
            "## What its features are worth\n\nFrozen features of {}, probes fitted on {} labelled images and measured on {}; the encoder saw \
             no label.{}\n\n",
            inline(&source(&table.data)),
            table.train,
            table.test,
            if table.seen {
                " The images have no test part of their own: a hash of each one's name chose those that are measured on, and the encoder was \
                 pretrained on these too, without their labels."
            } else {
                ""
            },
        );
        for (i, row) in table.text().into_iter().enumerate() {
            let row: Vec<String> = row.iter().map(|cell| inline(cell)).collect();
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if i == 0 {
                let _ = writeln!(text, "|---|{}", "--:|".repeat(row.len() - 1));
            }
        }
        if table.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.std.is_some()) {
            text += "\n± is the standard deviation over draws of the labels.\n";
        }
        text + "\n"
    }

    fn training(&self) -> String {
        let config = self.config;
        let images = self.steps * config.batch_size as u64;
        let views = (config.method.views(config.image_size) * images as f64).round();
        let mut rows = vec![
            ("method", config.method.name().to_owned()),
            ("images", inline(&source(&config.data))),
            ("steps", self.steps()),
            (
                "views",
                format!("{views} (of {0}×{0} pixels; smaller ones count by their area)", config.image_size),
            ),
            ("optimiser", config.optimizer.name().to_owned()),
            ("seed", config.seed.to_string()),
        ];
        if let Some(licence) = self.license {
            rows.push(("licence", inline(licence.name())));
        }
        let mut text = "## Training\n\n| | |\n|---|---|\n".to_owned();
        for (key, value) in rows {
            let _ = writeln!(text, "| {key} | {value} |");
        }
        text += "\nEvery setting stands in `training.toml`.\n";
        if self.license.is_none() {
            text += "\nNo licence was given.\n";
        }
        text
    }

    /// Steps, passes over the images, and whether the run was to make more.
    fn steps(&self) -> String {
        let (config, steps) = (self.config, self.steps);
        let mut text = format!("{steps} of {} images", config.batch_size);
        if let Some(last) = self.records.last().filter(|last| last.step > 0 && last.epoch > 0.0) {
            let an_epoch = last.step as f64 / last.epoch;
            let all = config.steps.unwrap_or((config.epochs as f64 * an_epoch).round() as u64);
            text += &format!(", {:.1} passes", steps as f64 / an_epoch);
            if steps < all {
                text += &format!("; stopped before the last of its {all} steps");
            }
        }
        text
    }
}

/// A data source without the folders above it, which are nobody's business.
fn source(data: &str) -> String {
    let SourceName { kind, path, part } = SourceName::of(data);
    let last = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let name = if matches!(last, "" | "." | "..") { "images" } else { last };
    format!("{kind}{name}{part}")
}

/// Somebody's words in a line of Markdown: none of them is markup, and none begins another line.
fn inline(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '~' | '$' | '#' => escaped.extend(['\\', char]),
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_without_its_folders() {
        for (data, expected) in [
            ("fashion-mnist", "fashion-mnist"),
            ("/home/me/photos/", "photos"),
            ("photos/birds#train", "birds#train"),
            ("/home/me:2024/photos", "photos"),
            ("cifar10:/data/cifar", "cifar10:cifar"),
            ("idx:mnist#test", "idx:mnist#test"),
            (r"C:\Users\me\photos", "photos"),
            (".", "images"),
            ("..", "images"),
            ("idx:/", "idx:images"),
        ] {
            assert_eq!(source(data), expected, "{data}");
        }
    }

    #[test]
    fn words_are_no_markup() {
        assert_eq!(inline("a|b `c`\n# <img src=x>"), "a\\|b \\`c\\` \\# &lt;img src=x>");
        assert_eq!(inline("resnet18-cifar, 32×32 ± 0.5"), "resnet18-cifar, 32×32 ± 0.5");
    }
}
