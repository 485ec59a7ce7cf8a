//! `grep`: lines by content.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

use grep_matcher::{LineTerminator, Matcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Access, Tool, ToolContext, ToolError, ToolOutput, glob::newest_first, view::explain};
use crate::domain::workspace::{Globs, RelativePath, blocking};

/// Matching lines that one call shows.
const MAX_MATCHES: usize = 100;
/// Characters that are shown of a line.
const MAX_COLUMNS: usize = 500;
/// Characters shown before a match that lies further right than that.
const COLUMNS_BEFORE: usize = 100;
/// Bytes of the longest line that is held; a file with longer ones is not searched further.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

pub(super) struct Grep;

/// Finds lines in the files of the workspace by a regular expression (Rust syntax, line by line, case-sensitive
/// unless it begins with `(?i)`), or by a plain text with `literal`. Shows at most 100 lines as `path:line: text`,
/// the last changed files first, long lines cut, and says when there are more. Hidden files are searched, binary
/// files, `.git` and what ignore files name are not.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// What to look for.
    pattern: String,
    /// File or folder to search, relative to the workspace root or absolute inside the workspace. Default: the root.
    path: Option<String>,
    /// Glob of the files to search, such as `*.rs` or `src/**/*.{ts,tsx}`; one without a slash holds at any depth.
    /// Default: all.
    include: Option<String>,
    /// Take the pattern as plain text. Default: false.
    literal: Option<bool>,
}

impl Tool for Grep {
    const NAME: &'static str = "grep";
    const READ_ONLY: bool = true;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Read(args.path.clone().unwrap_or_default())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let context = context.clone();
        blocking(move || grep(&context, &args)).await
    }
}

fn grep(context: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    if args.pattern.is_empty() {
        return Err(ToolError::model("pattern: is empty, which would match every line"));
    }
    let literal = args.literal.unwrap_or(false);
    // `$` holds before CRLF as well as before LF.
    let matcher = RegexMatcherBuilder::new()
        .fixed_strings(literal)
        .multi_line(true)
        .crlf(true)
        .build(&args.pattern)
        .map_err(|error| explain_pattern(&args.pattern, literal, &error))?;
    let globs = args.include.as_ref().map(|glob| Globs::new([glob])).transpose();
    let globs = globs.map_err(|error| ToolError::model(format!("include: {error}")))?;
    let (files, mut unreadable) = files(context, args, globs.as_ref())?;

    let mut searcher = SearcherBuilder::new()
        .line_terminator(LineTerminator::crlf())
        .binary_detection(BinaryDetection::quit(0))
        .heap_limit(Some(MAX_LINE_BYTES))
        .build();
    let mut lines = Lines { matcher: &matcher, path: String::new(), count: 0, cut: false, text: String::new() };
    for file in files {
        let path = RelativePath::found(&file);
        // Opened beneath the root like any file: what the walk saw may be something else by now.
        let Ok(open) = context.workspace.open_file(&path) else {
            // A link or a socket that has a name here is no file to search.
            unreadable += usize::from(context.workspace.metadata(&path).is_ok_and(|data| data.is_file()));
            continue;
        };
        lines.path = path.to_string();
        let reader = Cancelable { file: open, cancel: &context.cancel };
        let searched = searcher.search_reader(&matcher, reader, &mut lines);
        if context.cancel.is_cancelled() {
            return Err(ToolError::canceled());
        }
        unreadable += usize::from(searched.is_err());
        if lines.cut {
            break;
        }
    }

    let Lines { count, cut, mut text, .. } = lines;
    if count == 0 {
        let _ = writeln!(text, "no lines match {:?}", args.pattern);
    }
    if cut {
        let _ = writeln!(text, "(cut at {MAX_MATCHES} lines: there are more; narrow the pattern, path or include)");
    }
    if unreadable > 0 {
        let _ = writeln!(text, "({unreadable} files or folders could not be searched)");
    }
    Ok(ToolOutput { metadata: Some(json!({"matches": count, "truncated": cut})), ..ToolOutput::words(text) })
}

fn explain_pattern(pattern: &str, literal: bool, error: &grep_regex::Error) -> ToolError {
    ToolError::model(if pattern.contains(['\n', '\r']) {
        "pattern: holds a line end, but lines are searched one by one; look for one of its lines".to_owned()
    } else if literal {
        format!("pattern: {error}")
    } else {
        format!("pattern: {error}; set literal to look for it as plain text")
    })
}

/// The files to search and how many entries could not be read.
fn files(context: &ToolContext, args: &Args, globs: Option<&Globs>) -> Result<(Vec<PathBuf>, usize), ToolError> {
    let workspace = &context.workspace;
    let path = match args.path.as_deref() {
        Some(path) if !path.is_empty() => workspace.for_model(path)?,
        Some(_) | None => RelativePath::root(),
    };
    let data = workspace.metadata(&path).map_err(|error| explain(context, &path, error))?;
    let canonical = workspace.canonical(&path)?;
    if data.is_dir() {
        return newest_first(context, &canonical, globs);
    }
    workspace.open_file(&path)?;
    Ok((vec![canonical], 0))
}

/// Collects matching lines over all files.
struct Lines<'a> {
    matcher: &'a RegexMatcher,
    path: String,
    count: usize,
    cut: bool,
    text: String,
}

impl Sink for &mut Lines<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        if self.count == MAX_MATCHES {
            self.cut = true;
            return Ok(false);
        }
        self.count += 1;
        let bytes = found.bytes();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let place = self.matcher.find(bytes).ok().flatten().map_or(0, |found| found.start());
        let number = found.line_number().unwrap_or_default();
        let _ = writeln!(self.text, "{}:{number}: {}", self.path, cut_line(bytes, place));
        Ok(true)
    }
}

/// A line, or the piece of it around the match at that byte.
fn cut_line(line: &[u8], place: usize) -> String {
    let (before, after) = line.split_at(place.min(line.len()));
    let (before, after) = (String::from_utf8_lossy(before), String::from_utf8_lossy(after));
    let column = before.chars().count();
    if column + after.chars().count() <= MAX_COLUMNS {
        return format!("{before}{after}");
    }
    let from = if column < MAX_COLUMNS - COLUMNS_BEFORE { 0 } else { column - COLUMNS_BEFORE };
    let piece: String = before.chars().chain(after.chars()).skip(from).take(MAX_COLUMNS).collect();
    let start = if from > 0 { "[cut] " } else { "" };
    format!("{start}{piece} [cut]")
}

/// A file whose reading ends with the turn.
struct Cancelable<'a> {
    file: File,
    cancel: &'a CancellationToken,
}

impl Read for Cancelable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_around_the_match() {
        assert_eq!(cut_line(b"short", 3), "short");
        let far = format!("{}needle{}", "é".repeat(1_000), "b".repeat(1_000));
        let shown = cut_line(far.as_bytes(), 2_000);
        assert!(shown.starts_with("[cut] é") && shown.contains("éneedleb") && shown.ends_with("b [cut]"), "{shown}");
        assert_eq!(shown.chars().count(), MAX_COLUMNS + 12);
        assert_eq!(cut_line(b"ab\xff", 1), "ab\u{fffd}");
    }
}
