//! A model's files: read on a thread of their own, and compared with the name that a worker announces.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cocoon_model::{CheckedModel, ModelError, ModelName, Progress, Watch};
use tokio::task::JoinHandle;

/// How often a long reading is told of in the log.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Work on a model's files that is under way. Dropped, it ends at its next step.
pub(crate) struct Reading<T> {
    task: JoinHandle<Result<T, ModelError>>,
    cancelled: Arc<AtomicBool>,
}

impl<T: Send + 'static> Reading<T> {
    /// Starts on a blocking thread. `tell` is told of each step.
    pub(crate) fn start(
        work: impl FnOnce(&mut Watch<'_>) -> Result<T, ModelError> + Send + 'static,
        mut tell: impl FnMut(Progress) + Send + 'static,
    ) -> Self {
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        let task = tokio::task::spawn_blocking(move || {
            work(&mut |progress| {
                tell(progress);
                if flag.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        Self { task, cancelled }
    }

    /// What came of it. To be asked once.
    ///
    /// # Errors
    /// As the work says.
    pub(crate) async fn done(&mut self) -> anyhow::Result<T> {
        let outcome = (&mut self.task).await.context("reading the model's files was cut off")?;
        Ok(outcome?)
    }

    /// Asks it to end.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl<T> Drop for Reading<T> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// The name that a worker announces, and the model's files where they were compared with it. A name without a hash gets
/// that of the files.
///
/// # Errors
/// The files are another model's, cannot be read, or the name does not say of which commit they are.
pub(crate) async fn checked(
    model: &str,
    path: Option<&Path>,
) -> anyhow::Result<(String, Option<CheckedModel>)> {
    let Some(path) = path else {
        if names_a_hash(model) {
            tracing::warn!(
                model,
                "nobody checked that this is the model: set model_path to its files, an archive or a directory"
            );
        }
        return Ok((model.to_owned(), None));
    };
    let name: ModelName = model.parse().with_context(|| {
        format!(
            "model = {model:?} cannot be compared with model_path; write NAME@COMMIT:HASH, or NAME@COMMIT"
        )
    })?;
    if name.commit().is_none() {
        bail!("model = {model:?} has no commit; with model_path write NAME@COMMIT:HASH, or NAME@COMMIT");
    }
    tracing::info!(model, path = %path.display(), "reading the model's files");
    let began = Instant::now();
    let (place, expected) = (path.to_owned(), name.hash());
    let work = move |watch: &mut Watch<'_>| match expected {
        Some(hash) => cocoon_model::verify(&place, &hash, watch),
        None => cocoon_model::check(&place, watch),
    };
    let mut told = began;
    let tell = move |Progress { done, total }| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let percent = done.saturating_mul(100) / total.max(1);
            tracing::info!(percent, of_bytes = total, "reading the model's files");
        }
    };
    let files = Reading::start(work, tell).done().await;
    let files =
        files.context("the files at model_path are not shown to be the model, so it is not served")?;
    let hash = files.image().hash;
    let name = name.with_hash(hash).context("the model's name has no commit")?.to_string();
    let seconds = began.elapsed().as_secs();
    tracing::info!(
        model = name,
        bytes = files.image().bytes,
        seconds,
        "the files are those of the model's name"
    );
    Ok((name, Some(files)))
}

/// Whether a name claims anything of its files: it has a hash that is not all zeros.
fn names_a_hash(model: &str) -> bool {
    let hash = model.split_once('@').and_then(|(_, rest)| rest.split_once(':'));
    hash.is_some_and(|(_, hash)| hash.bytes().any(|digit| digit != b'0'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_hash_of_zeros_or_none_claims_nothing() {
        for name in ["a", "a@b", "a@b:0", &format!("a@unchecked:{}", "0".repeat(64))] {
            assert!(!names_a_hash(name), "{name}");
        }
        assert!(names_a_hash("a@b:10") && names_a_hash("a@b:hash"));
    }

    #[tokio::test]
    async fn a_name_is_held_to_the_files_or_completed_by_them() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("weights"), "w").unwrap();
        let (full, files) = checked("a/b@c", Some(place.path())).await.unwrap();
        let hash = files.unwrap().image().hash;
        assert_eq!(full, format!("a/b@c:{hash}"));
        let (same, files) = checked(&full, Some(place.path())).await.unwrap();
        assert!(same == full && files.is_some());
        assert_eq!(checked(&full, None).await.unwrap(), (full.clone(), None));
        std::fs::write(place.path().join("weights"), "v").unwrap();
        let message = format!("{:#}", checked(&full, Some(place.path())).await.unwrap_err());
        assert!(message.contains(&hash.to_string()) && message.contains("not served"), "{message}");
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_compared_says_what_to_write() {
        let place = tempfile::tempdir().unwrap();
        for name in ["a", "a@b:0", "a@b:HASH", "a b@c", ""] {
            let message = format!("{:#}", checked(name, Some(place.path())).await.unwrap_err());
            assert!(message.contains("NAME@COMMIT:HASH"), "{message}");
        }
        let none = place.path().join("none");
        let message = format!("{:#}", checked("a@b", Some(&none)).await.unwrap_err());
        assert!(message.contains("none") && message.contains("No such file"), "{message}");
    }
}
