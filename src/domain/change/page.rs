//! One page of changes, or one patch of them: what was asked, checked, and what of it fits.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::{End, FileChange, GetFileChanges};
use crate::domain::{
    error::{Error, Result},
    id::TurnId,
    list::{DEFAULT_LIMIT, MAX_LIMIT, Pagination},
    part::json_len,
    version::{PathReason, shown},
    workspace::{Ask, Compared, Contents, Difference},
};

/// Lines around each change where the request says nothing.
const CONTEXT: u32 = 3;
/// Most lines around each change.
const MAX_CONTEXT: i64 = 1000;
/// Bytes of the longest content or diff that is in a list.
const MAX_TEXT: usize = 256 * 1024;
/// Bytes of a page: what is over goes to the next.
const MAX_PAGE: usize = 2 * 1024 * 1024;
/// Bytes of the largest patch.
const MAX_PATCH: usize = 3 * 1024 * 1024 - 64 * 1024;
/// What the cursor of this list begins with.
const CURSOR: &str = "f-";

/// The checked figures of a request.
pub(super) struct Asked {
    pub(super) context: u32,
    pub(super) limit: u32,
    after: Option<Vec<u8>>,
}

/// A page or a patch, before anybody's name is on it.
pub(super) struct Answer {
    pub(super) changes: Vec<(Vec<u8>, FileChange)>,
    pub(super) pagination: Pagination,
    pub(super) complete: bool,
    pub(super) left_out: Vec<PathReason>,
    pub(super) patch: Option<Vec<u8>>,
}

impl Asked {
    pub(super) fn check(wish: &GetFileChanges) -> Result<Self> {
        let context = match wish.context {
            None => CONTEXT,
            Some(lines @ 0..=MAX_CONTEXT) => lines as u32,
            Some(_) => return Err(Error::field("context", format!("must be 0 to {MAX_CONTEXT} lines"))),
        };
        let limit = match wish.limit.unwrap_or(0) {
            0 => DEFAULT_LIMIT,
            limit => u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Error::field("limit", format!("must be 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}")))?,
        };
        if wish.offset.unwrap_or(0) != 0 {
            return Err(Error::field("offset", "is not for this list; page by cursor"));
        }
        let after = wish.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(|cursor| {
            let path = cursor.strip_prefix(CURSOR).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            path.ok_or_else(|| Error::field("cursor", "is not of this list; take next_cursor of the page before"))
        });
        Ok(Self { context, limit, after: after.transpose()? })
    }

    /// The changes of one page.
    pub(super) fn page(&self, compared: &Compared<'_>) -> Answer {
        let list = &compared.list;
        let rest = list.iter().filter(|found| self.after.as_ref().is_none_or(|after| found.path > *after));
        let mut complete =
            compared.submodules.is_empty() && list.iter().all(|found| compared.is_within(found, MAX_TEXT as u64));
        let mut left_out = left_out(compared);
        let gone = |path: &[u8]| PathReason { path: shown(path), reason: "gone".into() };
        left_out.extend(list.iter().filter(|found| compared.is_gone(found)).map(|found| gone(&found.path)));
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let mut rest = rest.peekable();
        while let Some(found) = rest.next_if(|_| changes.len() < self.limit as usize) {
            let contents = compared.contents(found, MAX_TEXT);
            if contents.gone {
                complete = false;
                left_out.push(gone(&found.path));
            }
            let texts = [&contents.old, &contents.new, &contents.diff];
            bytes += texts.into_iter().flatten().map(|text| json_len(text)).sum::<usize>() + 500;
            if bytes > MAX_PAGE && !changes.is_empty() {
                let next = changes.last().map(|(path, _): &(Vec<u8>, FileChange)| path.clone());
                return Answer { left_out, ..self.answer(list.len(), changes, next, complete) };
            }
            changes.push((found.path.clone(), FileChange::new(found, contents)));
        }
        let next = rest.peek().and_then(|_| changes.last()).map(|(path, _)| path.clone());
        Answer { left_out, ..self.answer(list.len(), changes, next, complete) }
    }

    fn answer(
        &self,
        total: usize,
        changes: Vec<(Vec<u8>, FileChange)>,
        next: Option<Vec<u8>>,
        complete: bool,
    ) -> Answer {
        let next_cursor = next.map(|path| format!("{CURSOR}{}", URL_SAFE_NO_PAD.encode(path)));
        let has_more = next_cursor.is_some();
        let pagination = Pagination { total: total as u64, limit: self.limit, offset: 0, next_cursor, has_more };
        Answer { changes, pagination, complete, left_out: Vec::new(), patch: None }
    }

    pub(super) fn patch(&self, compared: &Compared<'_>) -> Answer {
        let patch = compared.patch(MAX_PATCH);
        let mut left_out = left_out(compared);
        left_out.extend(
            patch.left_out.iter().map(|(path, why)| PathReason { path: shown(path), reason: (*why).to_owned() }),
        );
        let answer = self.answer(compared.list.len(), Vec::new(), None, left_out.is_empty());
        Answer { left_out, patch: Some(patch.text), ..answer }
    }
}

/// What no change is told of.
fn left_out(compared: &Compared<'_>) -> Vec<PathReason> {
    let submodules = compared.submodules.iter();
    submodules.map(|path| PathReason { path: shown(path), reason: "submodule".into() }).collect()
}

impl FileChange {
    fn new(found: &Difference, contents: Contents) -> Self {
        Self {
            path: shown(&found.path),
            change: found.kind.into(),
            old_path: found.old_path.as_deref().map(shown),
            old_content: contents.old,
            new_content: contents.new,
            timestamp: None,
            diff: contents.diff,
            additions: contents.additions,
            deletions: contents.deletions,
            is_binary: contents.binary,
            truncated: contents.truncated,
            old_size: contents.old_size,
            new_size: contents.new_size,
            old_mode: found.old.map(|side| side.mode),
            new_mode: found.new.map(|side| side.mode),
            origin: None,
        }
    }
}

/// What an answer depends on beside the question and the trees.
pub(super) struct Beside<'a> {
    /// The newest version: with each new one files may have another origin.
    pub(super) current: String,
    /// Whether a rule keeps anything out.
    pub(super) ignores: bool,
    /// What the user's git takes for unchanged, where it is asked.
    pub(super) git: Option<&'a [u8; 32]>,
    /// The turn whose changes have no version yet.
    pub(super) running: Option<&'a TurnId>,
}

/// The same for the same answer, through whichever door the question came.
pub(super) fn etag(
    ask: &Ask,
    asked: &Asked,
    wish: &GetFileChanges,
    (since, until): (&End, &End),
    beside: &Beside<'_>,
) -> String {
    let asked = format!("{ask:?} {} {:?} {}", asked.limit, asked.after, wish.partial);
    let ends = format!("{} {:?} {} {:?}", since.tree, since.lacks, until.tree, until.lacks);
    let Beside { current, ignores, git, running } = beside;
    let names = format!("{:?} {:?} {current} {ignores} {git:?} {running:?}", since.name, until.name);
    let hash = Sha256::digest(format!("{asked}\n{ends}\n{names}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
