//! What is stored of a version that was taken, and the event that tells of it.

use std::{collections::HashSet, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use tokio::sync::OwnedMutexGuard;

use super::{Began, Hold, Latest, Take, Taken};
use crate::domain::{
    OpenCode,
    error::Result,
    event::{EventKind, FilesChanged},
    id::TurnId,
    session::now,
    store::{Batch, NewVersion, VersionRow},
    version::{ChangedFile, FileChangeType, VersionCause, shown},
    workspace::{Difference, DifferenceKind, Looked, lacks_to},
};

/// Files that one `files_changed` event names.
const MAX_FILES: usize = 500;
/// Bytes of their paths together.
const MAX_PATHS: usize = 64 * 1024;
/// Versions that are taken before old ones are looked for.
const PRUNE_EVERY: u64 = 50;

/// What is to be stored of a look.
pub(super) fn prepare(guard: OwnedMutexGuard<Latest>, wanted: Take, looked: &Looked, list: &[Difference]) -> Taken {
    let Take { cause, turn_id, touched, .. } = wanted;
    let tree = looked.tree.to_string();
    let lacks = lacks_to(&looked.lacks);
    let by = match cause {
        VersionCause::AfterTurn | VersionCause::Write | VersionCause::Revert => cause,
        VersionCause::Baseline | VersionCause::BeforeTurn | VersionCause::Request | VersionCause::Outside => {
            VersionCause::Outside
        }
    };
    let began = |turn_id| Began { turn_id, tree: looked.tree, others: HashSet::new() };
    let turn = turn_id.clone().filter(|_| cause != VersionCause::AfterTurn).map(began);
    let same = guard.row.as_ref().is_some_and(|last| last.tree == tree && last.lacks == lacks);
    if same && cause != VersionCause::Baseline && (cause != VersionCause::AfterTurn || list.is_empty()) {
        let row = guard.row.clone();
        if let Some(row) = row {
            return Taken { guard, version: None, event: None, row, turn };
        }
    }
    let first = guard.row.is_none();
    let row = VersionRow {
        id: guard.next,
        tree,
        at: now(),
        turn_id,
        cause,
        files_changed: u32::try_from(list.len()).unwrap_or(u32::MAX),
        lacks,
    };
    let call = |path: &[u8]| touched.get(Path::new(OsStr::from_bytes(path))).cloned();
    let changed = list.iter().map(|found| (found.path.clone(), call(&found.path))).collect();
    let event = (!first && !list.is_empty()).then(|| files_changed(row.name(), list, by));
    let version = NewVersion { row: row.clone(), is_baseline: cause == VersionCause::Baseline, changed, by };
    Taken { guard, version: Some(version), event, row, turn }
}

/// The event that tells of a version.
fn files_changed(version: String, list: &[Difference], by: VersionCause) -> FilesChanged {
    let mut bytes = 0;
    let within = |found: &&Difference| {
        bytes += found.path.len();
        bytes <= MAX_PATHS
    };
    let files: Vec<ChangedFile> = list.iter().take(MAX_FILES).take_while(within).map(ChangedFile::from).collect();
    let truncated = files.len() < list.len();
    FilesChanged { version, files, truncated, by }
}

impl Taken {
    /// Adds what is to be stored to a batch; [`Taken::stored`] is to follow.
    pub(in crate::domain) fn add_to(&mut self, batch: Batch, turn_id: Option<&TurnId>) -> Batch {
        let batch = match self.version.clone() {
            Some(version) => batch.version(version),
            None => batch,
        };
        match self.event.clone() {
            Some(event) => batch.event(turn_id, EventKind::FilesChanged(event)),
            None => batch,
        }
    }

    /// Notes that it is stored, and lets the next one be taken.
    pub(in crate::domain) fn stored(self, domain: &OpenCode) -> VersionRow {
        self.settle(domain).0
    }

    fn settle(mut self, domain: &OpenCode) -> (VersionRow, Hold) {
        if let Some(version) = self.version.take() {
            self.guard.next = version.row.id + 1;
            if let Some(began) = self.guard.turn.as_mut().filter(|_| version.by != VersionCause::AfterTurn) {
                began.others.extend(version.changed.into_iter().map(|(path, _)| path));
            }
            self.guard.row = Some(version.row);
            if version.is_baseline {
                domain.0.snapshots.baseline.send_replace(true);
            }
            if self.guard.next.is_multiple_of(PRUNE_EVERY) {
                let domain = domain.clone();
                domain.0.tasks.clone().spawn(async move { domain.give_up_old_versions().await });
            }
        }
        if let Some(turn) = self.turn.take() {
            self.guard.turn = Some(turn);
        }
        (self.row, Hold(self.guard))
    }

    /// Stores it by itself.
    pub(in crate::domain) async fn record(self, domain: &OpenCode) -> Result<VersionRow> {
        self.record_with(domain, Batch::new()).await
    }

    /// Stores it with what belongs to it, in one act.
    pub(in crate::domain) async fn record_with(self, domain: &OpenCode, batch: Batch) -> Result<VersionRow> {
        self.store(domain, batch).await.map(|(row, _)| row)
    }

    /// Stores it by itself, and keeps everybody else from taking one until the next is taken by this.
    pub(in crate::domain) async fn record_and_hold(self, domain: &OpenCode) -> Result<(VersionRow, Hold)> {
        self.store(domain, Batch::new()).await
    }

    async fn store(mut self, domain: &OpenCode, batch: Batch) -> Result<(VersionRow, Hold)> {
        let mut batch = self.add_to(batch, None);
        if let Some(began) = &self.turn {
            batch = batch.version_before(&began.turn_id, self.row.id);
        }
        if !batch.is_empty() {
            let stored = domain.0.store.append(batch).await;
            stored.inspect_err(|_| domain.0.snapshots.failed.notify_one())?;
        }
        Ok(self.settle(domain))
    }
}

impl From<&Difference> for ChangedFile {
    fn from(found: &Difference) -> Self {
        Self { path: shown(&found.path), change: found.kind.into(), old_path: found.old_path.as_deref().map(shown) }
    }
}

impl From<DifferenceKind> for FileChangeType {
    fn from(kind: DifferenceKind) -> Self {
        match kind {
            DifferenceKind::Created => Self::Created,
            DifferenceKind::Modified => Self::Modified,
            DifferenceKind::Deleted => Self::Deleted,
            DifferenceKind::Renamed => Self::Renamed,
            DifferenceKind::TypeChanged => Self::TypeChanged,
        }
    }
}
