//! `glob`: files by name.

use std::{fmt::Write as _, ops::ControlFlow, path::PathBuf, time::SystemTime};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Access, Tool, ToolContext, ToolError, ToolOutput, ls::folder};
use crate::domain::workspace::{Globs, blocking};

/// Files that one call names.
const MAX_RESULTS: usize = 100;

pub(super) struct Glob;

/// Finds files of the workspace by a glob such as `*.rs`, `src/**/*.{ts,tsx}` or `**/test_*`; a pattern without a
/// slash holds at any depth. Answers at most 100 paths, the last changed first, and says when there are more. Hidden
/// files are found, those in `.git` and what ignore files name are not.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// The glob, relative to `path`.
    pattern: String,
    /// Folder to look in, relative to the workspace root or absolute inside the workspace. Default: the root.
    path: Option<String>,
}

impl Tool for Glob {
    const NAME: &'static str = "glob";
    const READ_ONLY: bool = true;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Read(args.path.clone().unwrap_or_default())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let context = context.clone();
        blocking(move || glob(&context, &args)).await
    }
}

fn glob(context: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let start = folder(context, args.path.as_deref())?;
    // A pattern may begin with the absolute path of the folder, as paths may.
    let absolute = context.workspace.root().join(&start);
    let below =
        absolute.to_str().and_then(|folder| args.pattern.strip_prefix(folder.strip_suffix("/.").unwrap_or(folder)));
    let pattern = below.filter(|rest| rest.starts_with('/')).unwrap_or(&args.pattern);
    let globs = Globs::new([pattern]).map_err(|error| ToolError::model(format!("pattern: {error}")))?;
    let (mut files, unreadable) = newest_first(context, &start, Some(&globs))?;
    let found = files.len();
    files.truncate(MAX_RESULTS);
    let mut text = String::new();
    for path in &files {
        let _ = writeln!(text, "{}", path.display());
    }
    if found == 0 {
        let _ = writeln!(text, "no files match {:?}", args.pattern);
    }
    if found > MAX_RESULTS {
        let _ = writeln!(text, "(cut at {MAX_RESULTS} of {found} files; narrow the pattern or the path)");
    }
    if unreadable > 0 {
        let _ = writeln!(text, "({unreadable} entries could not be read)");
    }
    let metadata = json!({"files": found, "truncated": found > MAX_RESULTS});
    Ok(ToolOutput { metadata: Some(metadata), ..ToolOutput::words(text) })
}

/// Files below a folder, by canonical path, the last changed first, and how many entries could not be read.
pub(super) fn newest_first(
    context: &ToolContext,
    start: &std::path::Path,
    globs: Option<&Globs>,
) -> Result<(Vec<PathBuf>, usize), ToolError> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    let unreadable = context.workspace.walk(
        start,
        None,
        &Globs::default(),
        |path| context.hidden.hides(path),
        |entry| {
            if context.cancel.is_cancelled() {
                return ControlFlow::Break(());
            }
            let below = entry.path.strip_prefix(start).unwrap_or(entry.path);
            if !entry.is_dir() && globs.is_none_or(|globs| globs.matches(below)) {
                files.push((entry.modified(), entry.path.to_owned()));
            }
            ControlFlow::Continue(())
        },
    );
    if context.cancel.is_cancelled() {
        return Err(ToolError::canceled());
    }
    files.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    Ok((files.into_iter().map(|(_, path)| path).collect(), unreadable))
}
