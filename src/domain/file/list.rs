//! Listing files, in pages that cost what they show.

use std::os::unix::ffi::OsStrExt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::FileInfo;
use crate::domain::{
    OpenCode,
    error::{Error, Result},
    list::{List, Pagination},
    part::json_len,
    workspace::{Globs, RelativePath, Wanted, Workspace, blocking},
};

/// Most files of a page, and how many there are where the request names no number.
pub(in crate::domain) const MAX_LIMIT: u32 = 10_000;
/// Bytes that the files of a page may have as JSON, so that no answer is over 3 MiB.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024 - 16 * 1024;
/// Bytes of a file's JSON beside its path, its type and what it points to.
const ENTRY_BYTES: usize = 220;
/// Most patterns of a request, and bytes of each.
const MAX_PATTERNS: usize = 100;
const MAX_PATTERN_BYTES: usize = 1000;
/// Bytes of a cursor that tell which list it is of.
const MARK_BYTES: usize = 8;

/// Which files are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFiles {
    /// The directory; empty for the workspace itself.
    pub path: String,
    /// What is in its directories too, all the way down, without `.git` and what git's ignore rules name.
    pub recursive: bool,
    /// Globs relative to the workspace; only files that one of them matches. One without a slash holds at any depth.
    pub patterns: Vec<String>,
    /// The same; files and directories with all in them that one of them matches are left out.
    pub exclude_patterns: Vec<String>,
    /// Leave out names that begin with a dot.
    pub exclude_hidden: bool,
    /// Show what ignore rules name too.
    pub include_ignored: bool,
    /// 1 to 10,000; zero or absent is 10,000.
    pub limit: Option<i64>,
    /// `next_cursor` of the page before, of the same request.
    pub cursor: Option<String>,
}

/// A page of files, in the byte order of their paths.
pub type FileList = List<FileInfo>;

impl OpenCode {
    /// Lists a directory of the workspace.
    ///
    /// A page may end early, so that no answer is over 3 MiB. Files that come and go meanwhile are in it or not; all
    /// others are in exactly one page. There is no total: counting them would be listing them.
    pub async fn list_files(&self, wish: ListFiles) -> Result<FileList> {
        let workspace = &self.0.workspace;
        let start = if wish.path.is_empty() { RelativePath::root() } else { workspace.for_client(&wish.path)? };
        let limit = match wish.limit.unwrap_or(0) {
            0 => MAX_LIMIT,
            limit => u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Error::field("limit", format!("must be 1 to {MAX_LIMIT}, or 0 for {MAX_LIMIT}")))?,
        };
        let mark = wish.mark();
        let after = match wish.cursor.as_deref().filter(|cursor| !cursor.is_empty()) {
            None => Vec::new(),
            Some(cursor) => {
                let bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
                let after = bytes.strip_prefix(mark.as_slice()).filter(|after| !after.is_empty());
                let not_ours = "is not of this list; take next_cursor of a page of the same request";
                after.ok_or_else(|| Error::field("cursor", not_ours))?.to_vec()
            }
        };
        let patterns = (!wish.patterns.is_empty()).then(|| globs("patterns", &wish.patterns)).transpose()?;
        let wanted = Wanted {
            recursive: wish.recursive,
            exclude_hidden: wish.exclude_hidden,
            include_ignored: wish.include_ignored,
            patterns,
            exclude: globs("exclude_patterns", &wish.exclude_patterns)?,
            after,
            ahead: limit as usize + 1,
            ..Wanted::default()
        };
        // Before the files are looked at, so that they hold every event up to there.
        let as_of = self.read(|_| Ok(())).await?.as_of;
        let workspace = workspace.clone();
        let (items, last) = blocking(move || page(&workspace, &start, &wanted, limit as usize)).await?;
        let next_cursor = last.map(|path| URL_SAFE_NO_PAD.encode([mark.as_slice(), &path].concat()));
        let pagination = Pagination { total: 0, limit, offset: 0, has_more: next_cursor.is_some(), next_cursor };
        Ok(List { items, pagination, as_of })
    }
}

/// The files of a page, and the path of the last one, below the start, if there are more.
fn page(
    workspace: &Workspace,
    start: &RelativePath,
    wanted: &Wanted,
    limit: usize,
) -> Result<(Vec<FileInfo>, Option<Vec<u8>>)> {
    let (mut files, mut bytes, mut last, mut more) = (Vec::new(), 0, Vec::new(), false);
    workspace.list(start, wanted, &mut |entry| {
        let named = if *start == RelativePath::root() { entry.path.clone() } else { start.as_path().join(&entry.path) };
        let mut file = FileInfo::new(named.as_os_str().as_bytes(), entry.facts, None);
        file.symlink_target = entry.target.map(|target| target.to_string_lossy().into_owned());
        bytes += ENTRY_BYTES
            + json_len(&file.path)
            + file.mime_type.as_deref().map_or(0, str::len)
            + file.symlink_target.as_deref().map_or(0, json_len);
        if files.len() == limit || (bytes > MAX_PAGE_BYTES && !files.is_empty()) {
            more = true;
            return false;
        }
        files.push(file);
        last = entry.path.into_os_string().into_encoded_bytes();
        true
    })?;
    Ok((files, more.then_some(last)))
}

fn globs(field: &str, patterns: &[String]) -> Result<Globs> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Error::field(field, format!("has more than {MAX_PATTERNS} patterns")));
    }
    if patterns.iter().any(|pattern| pattern.len() > MAX_PATTERN_BYTES) {
        return Err(Error::field(field, format!("has a pattern of more than {MAX_PATTERN_BYTES} bytes")));
    }
    Globs::new(patterns).map_err(|error| Error::field(field, error))
}

impl ListFiles {
    /// What makes a cursor this list's own.
    fn mark(&self) -> Vec<u8> {
        let Self { path, recursive, patterns, exclude_patterns, exclude_hidden, include_ignored, limit: _, cursor: _ } =
            self;
        let text = format!("{path:?}{recursive}{patterns:?}{exclude_patterns:?}{exclude_hidden}{include_ignored}");
        Sha256::digest(text)[..MARK_BYTES].to_vec()
    }
}
