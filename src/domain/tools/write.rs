//! `write`: a file as a whole.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use similar::{ChangeTag, TextDiff};

use super::{Access, Tool, ToolContext, ToolError, ToolOutput, view::hash_file};
use crate::domain::{
    part::head,
    workspace::{PathError, Problem, RelativePath, blocking},
};

/// Bytes up to which the old and the new content are compared for the figures beside the answer.
const MAX_COMPARED_BYTES: usize = 1024 * 1024;
/// Bytes of the diff beside the answer.
const MAX_DIFF_BYTES: usize = 8 * 1024;
/// Longest time that the comparison may take; past it the diff is coarser, not wrong.
const MAX_COMPARE_TIME: std::time::Duration = std::time::Duration::from_millis(200);

pub(super) struct Write;

/// Writes a file of the workspace as a whole, and makes it and its folders if they do not exist. A file that exists
/// must have been viewed before, and must not have changed since; to change a part of it, `edit` is shorter.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// Path of the file, relative to the workspace root or absolute inside the workspace.
    path: String,
    /// The whole content of the file.
    content: String,
}

impl Tool for Write {
    const NAME: &'static str = "write";
    const READ_ONLY: bool = false;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Edit(args.path.clone())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let context = context.clone();
        blocking(move || write(&context, &args)).await
    }
}

fn write(context: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let workspace = &context.workspace;
    let path = workspace.for_model(&args.path)?;
    if args.path.ends_with('/') {
        return Err(ToolError::model(format!("path {:?} names a directory; name a file in it", args.path)));
    }
    let _one_step = context.writing()?;
    let old = match workspace.open_file(&path) {
        Ok(file) => {
            let canonical = workspace.canonical_of(&path, &file)?;
            let failed = |error| PathError { path: path.to_string(), problem: Problem::Io(error) };
            let hash = hash_file(file, &context.cancel).map_err(failed)?.ok_or_else(ToolError::canceled)?;
            context.memory.knows(&canonical, hash)?;
            Some(workspace.read(&path, MAX_COMPARED_BYTES as u64).ok())
        }
        Err(PathError { problem: Problem::NotFound, .. }) => None,
        Err(error) => return Err(error.into()),
    };
    save(context, &path, args.content.as_bytes())?;
    let lines = args.content.lines().count();
    let size = args.content.len();
    let (verb, metadata) = match old {
        None => ("created", json!({"additions": lines, "deletions": 0})),
        Some(old) => {
            let old = old.and_then(|old| String::from_utf8(old).ok());
            ("wrote", old.map_or_else(|| json!({}), |old| changes(&path, &old, &args.content)))
        }
    };
    let content = format!("{verb} {path} ({lines} lines, {size} bytes)");
    Ok(ToolOutput { metadata: Some(metadata), ..ToolOutput::words(content) })
}

/// Writes the file and notes its content as known to the model.
pub(super) fn save(context: &ToolContext, path: &RelativePath, content: &[u8]) -> Result<(), ToolError> {
    let canonical = context.workspace.write(path, content)?;
    if let Some(call) = context.call.clone() {
        context.changes.touch(canonical.clone(), call);
    }
    context.memory.saw(canonical, Sha256::digest(content).into());
    Ok(())
}

/// What a change changed, for clients: counts of lines and the diff, left out where the content is too large.
pub(super) fn changes(path: &RelativePath, old: &str, new: &str) -> Value {
    if old.len() > MAX_COMPARED_BYTES || new.len() > MAX_COMPARED_BYTES {
        return json!({});
    }
    let diff = TextDiff::configure().timeout(MAX_COMPARE_TIME).diff_lines(old, new);
    let count = |tag| diff.iter_all_changes().filter(|change| change.tag() == tag).count();
    let name = path.to_string();
    let text = diff.unified_diff().context_radius(3).header(&name, &name).to_string();
    json!({
        "additions": count(ChangeTag::Insert),
        "deletions": count(ChangeTag::Delete),
        "diff": head(&text, MAX_DIFF_BYTES),
        "diff_truncated": text.len() > MAX_DIFF_BYTES,
    })
}
