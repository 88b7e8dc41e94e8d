//! A small model in a directory of its own.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cocoon_model::Progress;

pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
    /// The model's directory.
    pub(crate) model: PathBuf,
    /// Where an archive may go.
    pub(crate) out: PathBuf,
}

impl Place {
    pub(crate) fn with_model() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (model, out) = (root.path().join("model"), root.path().join("model.tar"));
        fs::create_dir_all(model.join("sub")).unwrap();
        for (name, content) in [
            ("config.json", "{}".to_owned()),
            ("weights.safetensors", "weights ".repeat(5000)),
            ("sub/a", "a".to_owned()),
            ("sub.txt", "sorted after sub/".to_owned()),
            (".gitattributes", String::new()),
        ] {
            fs::write(model.join(name), content).unwrap();
        }
        Self { root, model, out }
    }
}

pub(crate) fn unwatched(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn entries_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}
