//! `ls`: a folder as a tree.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Access, Tool, ToolContext, ToolError, ToolOutput, view::explain};
use crate::domain::workspace::{Globs, RelativePath, blocking};

/// Entries that one call lists.
const MAX_ENTRIES: usize = 1_000;

pub(super) struct Ls;

/// Lists a folder of the workspace as a tree: at most 1,000 entries, those nearest to the folder first; the answer
/// says when there are more. Hidden files are listed, `.git` and what ignore files name are not.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// Path of the folder, relative to the workspace root or absolute inside the workspace. Default: the root.
    path: Option<String>,
    /// How many levels to list; 1 is the folder's own entries. Default: all.
    #[schemars(range(min = 1))]
    depth: Option<usize>,
    /// Globs of what to leave out, such as `*.lock` or `docs/**`; one without a slash holds at any depth.
    ignore: Option<Vec<String>>,
}

impl Tool for Ls {
    const NAME: &'static str = "ls";
    const READ_ONLY: bool = true;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Read(args.path.clone().unwrap_or_default())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let context = context.clone();
        blocking(move || ls(&context, args)).await
    }
}

fn ls(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
    if args.depth == Some(0) {
        return Err(ToolError::model("depth: has to be at least 1"));
    }
    let skip =
        Globs::new(args.ignore.unwrap_or_default()).map_err(|error| ToolError::model(format!("ignore: {error}")))?;
    let workspace = &context.workspace;
    let start = folder(context, args.path.as_deref())?;

    // Level by level, so that a first folder full of files does not hide its siblings. Each level is a walk of its
    // own: their number is bounded by the entries, and nothing but what is listed is held.
    let mut tree = Tree::default();
    let (mut count, mut cut, mut unreadable) = (0, false, 0);
    for level in 1..=args.depth.unwrap_or(usize::MAX) {
        let before = count;
        unreadable = workspace.walk(
            &start,
            Some(level),
            &skip,
            |path| context.hidden.hides(path),
            |entry| {
                if context.cancel.is_cancelled() {
                    return ControlFlow::Break(());
                }
                if entry.depth < level {
                    return ControlFlow::Continue(());
                }
                if count == MAX_ENTRIES {
                    cut = true;
                    return ControlFlow::Break(());
                }
                count += 1;
                let mark = if entry.is_dir() {
                    "/"
                } else if entry.is_link() {
                    "@"
                } else {
                    ""
                };
                tree.add(entry.path.strip_prefix(&start).unwrap_or(entry.path), mark);
                ControlFlow::Continue(())
            },
        );
        if cut || count == before || context.cancel.is_cancelled() {
            break;
        }
    }
    if context.cancel.is_cancelled() {
        return Err(ToolError::canceled());
    }
    let mut text = format!("{}/\n", start.display());
    tree.draw(1, &mut text);
    if count == 0 {
        text.push_str("(no entries, or only ignored ones)\n");
    }
    if cut {
        let _ = writeln!(text, "(cut at {MAX_ENTRIES} entries: there are more; list a folder, or set depth or ignore)");
    }
    if unreadable > 0 {
        let _ = writeln!(text, "({unreadable} entries could not be read)");
    }
    Ok(ToolOutput { metadata: Some(json!({"entries": count, "truncated": cut})), ..ToolOutput::words(text) })
}

/// The canonical path of the folder that a tool is to look in; the root if none is named.
pub(super) fn folder(context: &ToolContext, path: Option<&str>) -> Result<PathBuf, ToolError> {
    let workspace = &context.workspace;
    let path = match path {
        Some(path) if !path.is_empty() => workspace.for_model(path)?,
        Some(_) | None => RelativePath::root(),
    };
    let data = workspace.metadata(&path).map_err(|error| explain(context, &path, error))?;
    if !data.is_dir() {
        return Err(ToolError::model(format!("{path} is not a directory")));
    }
    Ok(workspace.canonical(&path)?)
}

/// Entries by name, each with its mark and what is below it.
#[derive(Default)]
struct Tree(BTreeMap<OsString, (&'static str, Tree)>);

impl Tree {
    fn add(&mut self, path: &Path, mark: &'static str) {
        let mut names = path.iter();
        let Some(first) = names.next() else { return };
        let (own, below) = self.0.entry(first.to_owned()).or_default();
        match names.as_path() {
            rest if rest.as_os_str().is_empty() => *own = mark,
            rest => below.add(rest, mark),
        }
    }

    fn draw(&self, depth: usize, text: &mut String) {
        for (name, (mark, below)) in &self.0 {
            let _ = writeln!(text, "{:indent$}{}{mark}", "", name.display(), indent = depth * 2);
            below.draw(depth + 1, text);
        }
    }
}
