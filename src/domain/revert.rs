//! Bringing files of the workspace back to a version.

use git2::Oid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode,
    error::{Code, Error, Result},
    repeat::{Answered, IdempotencyKey, Keyed},
    snapshot::{Take, failed},
    store::{Batch, VersionRow},
    version::{ChangedFile, PathReason, VersionCause, shown},
    workspace::{Ask, Difference, Lack, blocking, lacks_from},
};

/// Most paths that a request names.
const MAX_PATHS: usize = 1000;
/// Changes and skipped paths that an answer names.
const MAX_NAMED: usize = 5000;
/// Bytes of them together.
const MAX_NAMED_BYTES: usize = 1024 * 1024;
/// Files that the next turn's model is told of by name.
const MAX_TOLD: usize = 50;

/// What is to be brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertFiles {
    /// The version, such as `v12`.
    #[schema(pattern = "^v[0-9]+$")]
    pub version: String,
    /// Only these files, and what is below these directories; all if absent or empty.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub paths: Vec<String>,
    /// Only tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// The version that the workspace must be at.
    pub expected_version: Option<String>,
    /// With it a repeat is answered again.
    #[serde(skip)]
    pub idempotency_key: Option<IdempotencyKey>,
}

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reverted {
    /// The changes made, or with `dry_run` those that would be.
    pub changes: Vec<ChangedFile>,
    /// True where more changed, or was skipped, than is listed.
    pub truncated: bool,
    /// What was not brought back, and why.
    pub skipped: Vec<PathReason>,
    /// The version taken first: reverting to it undoes this. Absent with `dry_run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_before: Option<String>,
    /// The version after. Absent with `dry_run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_after: Option<String>,
}

impl OpenCode {
    /// Brings files back to a version. Refused while a turn runs; a version is taken first.
    pub async fn revert_files(&self, wish: RevertFiles) -> Result<Answered<Reverted>> {
        if wish.paths.len() > MAX_PATHS {
            return Err(Error::field("paths", format!("must have at most {MAX_PATHS} paths")));
        }
        let paths = wish
            .paths
            .iter()
            .map(|path| Ok(self.0.workspace.for_client(path)?.as_path().as_os_str().as_encoded_bytes().to_vec()));
        let paths = paths.collect::<Result<Vec<_>>>()?;
        let key = wish.keyed()?;
        let (domain, stored) = (self.clone(), key.clone());
        let revert = async move {
            let target = domain.version("version", &wish.version).await?;
            let _gate = domain.0.gate.lock().await;
            if let Some(key) = &stored {
                domain.found(key).await?;
            }
            domain.refuse_while_busy().await?;
            domain.0.store.refuse_when_full()?;
            domain.revert(wish, paths, target, stored).await
        };
        self.once(key.as_ref(), |json, _| serde_json::from_str(json), revert).await
    }

    async fn revert(
        &self,
        wish: RevertFiles,
        paths: Vec<Vec<u8>>,
        target: VersionRow,
        key: Option<Keyed>,
    ) -> Result<Reverted> {
        // Held to the end: what is brought back is nobody else's change.
        let (before, hold) = self.take(Take::new(VersionCause::Request)).await?.record_and_hold(self).await?;
        if let Some(expected) = wish.expected_version.filter(|expected| *expected != before.name()) {
            let detail = format!("the workspace is at {}, not at {expected}", before.name());
            return Err(Error::new(Code::PreconditionFailed, detail));
        }
        let engine = self.engine().await?;
        let (plan, mut skipped) = {
            let (engine, before, target) = (engine.clone(), before.clone(), target.clone());
            blocking(move || {
                let in_scope = |path: &[u8]| paths.is_empty() || paths.iter().any(|wanted| is_below(path, wanted));
                let (here, there) = (lacks_from(&before.lacks), lacks_from(&target.lacks));
                let trees = (Oid::from_str(&before.tree), Oid::from_str(&target.tree));
                let (Ok(from), Ok(to)) = trees else { return Ok((Vec::new(), Vec::new())) };
                let lacks: [&[Lack]; 2] = [&here, &there];
                let mut list = engine.compare((from, to), Ask::names(), &lacks, |compared| Ok(compared.list))?;
                list.retain(|found| in_scope(&found.path));
                let (plan, skipped) = engine.can_restore(list)?;
                let mut skipped: Vec<PathReason> = skipped.into_iter().map(reason).collect();
                let unknown = here.iter().chain(&there).filter(|lack| {
                    lack.path.is_empty() || in_scope(&lack.path) || paths.iter().any(|path| lack.covers(path))
                });
                skipped.extend(unknown.map(PathReason::from));
                // Both versions may lack the same.
                skipped.sort();
                skipped.dedup();
                std::io::Result::Ok((plan, skipped))
            })
            .await
            .map_err(failed)?
        };
        if wish.dry_run {
            let answer = answer(&plan, skipped, None, None);
            let key = key.map(|key| key.answered(&answer)).transpose()?;
            if key.is_some() {
                self.0.store.append(Batch::new().key(key)).await?;
            }
            return Ok(answer);
        }
        let done = {
            let (engine, workspace, plan) = (engine.clone(), self.0.workspace.clone(), plan.clone());
            blocking(move || {
                let _one_step = workspace.writing();
                engine.sync()?;
                engine.restore(&plan)
            })
            .await
            .map_err(failed)?
        };
        let made: Vec<Difference> = plan.into_iter().filter(|found| done.done.contains(&found.path)).collect();
        skipped.extend(done.skipped.into_iter().map(reason));
        let take = Take {
            paths: Some(made.iter().map(|found| path_of(&found.path)).collect()),
            ..Take::new(VersionCause::Revert)
        };
        let batch = match made.is_empty() {
            true => Batch::new(),
            false => Batch::new().note(told(&target.name(), &made)),
        };
        // One act: a version without the note would leave the next turn's model with what it remembers.
        let taken = self.take_holding(hold, take).await?;
        let answer = answer(&made, skipped, Some(before.name()), Some(taken.row.name()));
        let key = key.map(|key| key.answered(&answer)).transpose()?;
        taken.record_with(self, batch.key(key)).await?;
        Ok(answer)
    }
}

impl RevertFiles {
    fn keyed(&self) -> Result<Option<Keyed>> {
        let Self { version, paths, dry_run, expected_version, idempotency_key } = self;
        let wish = (version, paths, dry_run, expected_version);
        idempotency_key.clone().map(|key| Keyed::new(key, "revert_files", &wish)).transpose()
    }
}

fn path_of(path: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path).into()
}

fn is_below(path: &[u8], wanted: &[u8]) -> bool {
    path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn reason((path, why): (Vec<u8>, &'static str)) -> PathReason {
    PathReason { path: shown(&path), reason: why.to_owned() }
}

fn answer(
    made: &[Difference],
    mut skipped: Vec<PathReason>,
    before: Option<String>,
    after: Option<String>,
) -> Reverted {
    let mut bytes = 0;
    let mut within = |path: &str| {
        bytes += path.len() + 50;
        bytes <= MAX_NAMED_BYTES
    };
    let changes: Vec<ChangedFile> =
        made.iter().map(ChangedFile::from).take(MAX_NAMED).take_while(|change| within(&change.path)).collect();
    let named = changes.len();
    let all = skipped.len();
    skipped.truncate(MAX_NAMED);
    skipped.retain(|out| within(&out.path));
    let truncated = named < made.len() || skipped.len() < all;
    Reverted { truncated, changes, skipped, version_before: before, version_after: after }
}

/// What the model of the next turn is told.
fn told(version: &str, made: &[Difference]) -> String {
    let names: Vec<String> = made.iter().take(MAX_TOLD).map(|found| shown(&found.path)).collect();
    let more = if made.len() > MAX_TOLD { format!(" and {} more", made.len() - MAX_TOLD) } else { String::new() };
    format!(
        "[The user brought these files back to what they were in version {version} of the workspace; view them again \
         before you change them: {}{more}]",
        names.join(", ")
    )
}
