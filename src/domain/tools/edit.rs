//! `edit`: one text in a file for another.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Access, Tool, ToolContext, ToolError, ToolOutput,
    view::explain,
    write::{changes, save},
};
use crate::domain::workspace::{PathError, Problem, blocking};

/// Bytes of the largest file that is edited.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Lines that are named where a text is not unique.
const MAX_NAMED_LINES: usize = 10;
const BOM: &str = "\u{feff}";

pub(super) struct Edit;

/// Replaces a text in a file of the workspace. The file must have been viewed before, and must not have changed
/// since. `old_string` must be in it exactly, white space included and without the line numbers of `view`, and
/// exactly once, unless `replace_all` is set. With an empty `old_string` a new file is created; with an empty
/// `new_string` the text is deleted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// Path of the file, relative to the workspace root or absolute inside the workspace.
    path: String,
    /// The text to replace; empty to create the file.
    old_string: String,
    /// The text to put there; empty to delete.
    new_string: String,
    /// Replace every occurrence. Default: false.
    replace_all: Option<bool>,
}

impl Tool for Edit {
    const NAME: &'static str = "edit";
    const READ_ONLY: bool = false;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Edit(args.path.clone())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let context = context.clone();
        blocking(move || edit(&context, &args)).await
    }
}

fn edit(context: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    let workspace = &context.workspace;
    let path = workspace.for_model(&args.path)?;
    if args.old_string == args.new_string && !args.old_string.is_empty() {
        return Err(ToolError::model("old_string and new_string are the same"));
    }
    let _one_step = context.writing()?;
    let old = match workspace.read(&path, MAX_FILE_BYTES) {
        Ok(old) => old,
        Err(PathError { problem: Problem::NotFound, .. }) if args.old_string.is_empty() => Vec::new(),
        Err(error) => return Err(explain(context, &path, error)),
    };
    if args.old_string.is_empty() {
        if !old.is_empty() {
            let words = format!("{path} exists and has content; give the old_string to replace, or use write");
            return Err(ToolError::model(words));
        }
        save(context, &path, args.new_string.as_bytes())?;
        let lines = args.new_string.lines().count();
        let metadata = Some(json!({"additions": lines, "deletions": 0}));
        return Ok(ToolOutput { metadata, ..ToolOutput::words(format!("created {path} ({lines} lines)")) });
    }
    context.memory.knows(&workspace.canonical(&path)?, Sha256::digest(&old).into())?;
    let old = String::from_utf8(old)
        .map_err(|_| ToolError::model(format!("{path} is not UTF-8 text; change it with bash instead")))?;
    let (new, count) = replace(&old, &args.old_string, &args.new_string, args.replace_all.unwrap_or(false))
        .map_err(|problem| ToolError::model(format!("{path}: {problem}")))?;
    save(context, &path, new.as_bytes())?;
    let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
    let verb = if args.new_string.is_empty() { "deleted" } else { "replaced" };
    let words = format!("edited {path}: {verb} {times}");
    Ok(ToolOutput { metadata: Some(changes(&path, &old, &new)), ..ToolOutput::words(words) })
}

/// The file with the text replaced, and how often. Line ends are compared as `\n` and written as the file has them;
/// the rest of the file stays as it is to the byte.
fn replace(file: &str, old: &str, new: &str, all: bool) -> Result<(String, usize), String> {
    let body = file.strip_prefix(BOM).unwrap_or(file);
    let bom = &file[..file.len() - body.len()];
    let old = old.strip_prefix(BOM).unwrap_or(old).replace("\r\n", "\n");
    let new = new.strip_prefix(BOM).unwrap_or(new).replace("\r\n", "\n");
    let plain = body.replace("\r\n", "\n");
    // Where a `\r` was taken out before the `\n` at this place of the plain text.
    let ends: Vec<usize> = body.match_indices("\r\n").enumerate().map(|(before, (place, _))| place - before).collect();
    let crlf = ends.len() * 2 > plain.matches('\n').count();
    let new = if crlf { new.replace('\n', "\r\n") } else { new };
    let places: Vec<usize> = if old.is_empty() { Vec::new() } else { find(&plain, &old) };
    match places.len() {
        0 => return Err(missing(&plain, &old)),
        1 => {}
        _ if all => {}
        count => {
            let line = |place: &usize| (plain[..*place].matches('\n').count() + 1).to_string();
            let mut lines: Vec<String> = places.iter().take(MAX_NAMED_LINES).map(line).collect();
            lines.dedup();
            let more = if count > MAX_NAMED_LINES { ", and so on" } else { "" };
            let lines = lines.join(", ");
            return Err(format!(
                "old_string is there {count} times (at lines {lines}{more}); give more around it, or set replace_all"
            ));
        }
    }
    let original = |place: usize| place + ends.partition_point(|end| *end < place);
    let size = file.len().saturating_add(new.len().saturating_mul(places.len()));
    if size as u64 > MAX_FILE_BYTES {
        return Err(format!("the result would have {size} bytes; a file can have at most {MAX_FILE_BYTES} here"));
    }
    let mut result = String::with_capacity(size);
    result.push_str(bom);
    let mut done = 0;
    for place in &places {
        result.push_str(&body[done..original(*place)]);
        result.push_str(&new);
        done = original(place + old.len());
    }
    result.push_str(&body[done..]);
    Ok((result, places.len()))
}

fn find(text: &str, part: &str) -> Vec<usize> {
    text.match_indices(part).map(|(place, _)| place).collect()
}

/// Why it was not found, as far as that can be told.
fn missing(text: &str, old: &str) -> String {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let numbered = |line: &str| line.trim_start().split_once('\t').is_some_and(|(n, _)| n.parse::<u32>().is_ok());
    let squeezed = squeeze(old);
    let hint = if old.lines().all(numbered) {
        "leave out the line numbers that view shows"
    } else if !squeezed.is_empty() && squeeze(text).contains(&squeezed) {
        "it is there with other white space, so copy it exactly"
    } else {
        "view the file and copy the text exactly, white space included"
    };
    format!("old_string is not in the file; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_bom_stay() {
        let edit = |file, old, new| replace(file, old, new, false).map(|(text, _)| text);
        assert_eq!(edit("\u{feff}a\r\nb\r\nc\r\n", "a\nb\n", "x\ny\nz\n").unwrap(), "\u{feff}x\r\ny\r\nz\r\nc\r\n");
        assert_eq!(edit("a\r\nb\r\n", "b", "c\nd").unwrap(), "a\r\nc\r\nd\r\n");
        assert_eq!(edit("a\r\nb\r\n", "a\r\nb", "c").unwrap(), "c\r\n");
        assert_eq!(edit("a\r\nb\nc\n", "b\nc", "x\ny").unwrap(), "a\r\nx\ny\n");
        assert_eq!(edit("a\r\nb\nc\nd\n", "a\nb", "x").unwrap(), "x\nc\nd\n");
        assert_eq!(edit("a\r\nb\r\n", "\nb", "").unwrap(), "a\r\n");
        assert_eq!(edit("é\r\né2\r\n", "é2", "").unwrap(), "é\r\n\r\n");
    }

    #[test]
    fn a_text_is_replaced_once_or_everywhere() {
        assert_eq!(replace("a.a\r\na", "a", "bb", true).unwrap(), ("bb.bb\r\nbb".into(), 3));
        let twice = replace("a\nb\na\n", "a", "c", false).unwrap_err();
        assert!(twice.contains("2 times (at lines 1, 3)"), "{twice}");
        assert!(replace("  a b\n", "a  b", "c", false).unwrap_err().contains("other white space"));
        assert!(replace("ab\n", "     1\tab", "c", false).unwrap_err().contains("line numbers"));
        assert!(replace("ab\n", "zz", "c", false).unwrap_err().contains("is not in the file"));
    }
}
