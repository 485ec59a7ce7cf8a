//! `view`: a file, or a piece of it, with line numbers.

use std::{fmt::Write as _, fs::File, io::Read, path::Path};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Access, Tool, ToolContext, ToolError, ToolOutput};
use crate::domain::{
    part::{Binary, Data, MAX_IMAGE},
    permission::Hidden,
    workspace::{PathError, Problem, RelativePath, Workspace, blocking, image_type},
};

/// Lines that one call shows.
const MAX_LINES: usize = 2_000;
/// Columns that are shown of a line.
const MAX_COLUMNS: usize = 2_000;
/// Bytes that one call shows: lines within the limits above could still be more than a model can take.
const MAX_BYTES: usize = 256 * 1024;
/// Bytes of an image that a model is shown.
const MAX_IMAGE_BYTES: u64 = MAX_IMAGE as u64;
/// Bytes from the start in which a NUL makes a file binary.
const BINARY_PROBE: u64 = 8 * 1024;
/// Names that are offered for one that does not exist.
const NEAR_MATCHES: usize = 3;

const BOM: &[u8] = "\u{feff}".as_bytes();

pub(super) struct View;

/// Shows a file of the workspace with line numbers (which are not part of its content). At most 2,000 lines are shown
/// in one call and at most 2,000 columns of each; the answer says when there is more and how to go on. Images are
/// shown as such. A file has to be viewed before it can be changed with `edit` or `write`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// Path of the file, relative to the workspace root or absolute inside the workspace.
    path: String,
    /// Number of the first line to show, from 1 on. Default: 1.
    #[schemars(range(min = 1))]
    offset: Option<usize>,
    /// How many lines to show. Default and maximum: 2000.
    #[schemars(range(min = 1, max = 2000))]
    limit: Option<usize>,
}

impl Tool for View {
    const NAME: &'static str = "view";
    const READ_ONLY: bool = true;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Read(args.path.clone())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let context = context.clone();
        blocking(move || view(&context, &args)).await
    }
}

fn view(context: &ToolContext, args: &Args) -> Result<ToolOutput, ToolError> {
    if args.limit == Some(0) {
        return Err(ToolError::model("limit: has to be at least 1"));
    }
    let workspace = &context.workspace;
    let path = workspace.for_model(&args.path)?;
    let mut file = workspace.open_file(&path).map_err(|error| explain(context, &path, error))?;
    let canonical = workspace.canonical_of(&path, &file)?;
    let read_error = |error| ToolError::from(PathError { path: path.to_string(), problem: Problem::Io(error) });
    let size = file.metadata().map_err(read_error)?.len();
    let mut start = Vec::new();
    (&mut file).take(BINARY_PROBE.min(size)).read_to_end(&mut start).map_err(read_error)?;

    let first = args.offset.unwrap_or(1).max(1);
    let mut page = Page::new(first, args.limit.unwrap_or(MAX_LINES).min(MAX_LINES));
    let image = image_type(&start);
    let shown_image = image.is_some() && context.images && size <= MAX_IMAGE_BYTES;
    let binary = image.is_some() || start.contains(&0);
    let mut whole = Vec::new();
    let rest = (&mut file).take(size - start.len() as u64);
    let hash = each_chunk(&start, rest, &context.cancel, |chunk| {
        if shown_image {
            whole.extend_from_slice(chunk);
        } else if !binary {
            page.take(chunk);
        }
    });
    let hash = hash.map_err(read_error)?.ok_or_else(ToolError::canceled)?;
    // Noted for binary files as well: whoever was told what a file is may decide to replace it.
    context.memory.saw(canonical, hash);

    match image {
        Some(mime) if shown_image => {
            let data = Some(Data(Bytes::from(whole)));
            let mime_type = mime.to_owned();
            let image = Binary { path: Some(path.to_string()), mime_type, data, truncated: false, size };
            let words = format!("{path} is an image ({mime}, {size} bytes), shown beside these words");
            Ok(ToolOutput { image: Some(image), ..ToolOutput::words(words) })
        }
        Some(mime) if context.images => Err(ToolError::model(format!(
            "{path} is an image ({mime}) of {size} bytes; at most {MAX_IMAGE_BYTES} can be shown; make a smaller copy"
        ))),
        Some(mime) => Ok(ToolOutput::words(format!(
            "{path} is an image ({mime}, {size} bytes), which this model cannot be shown"
        ))),
        None if binary => Err(ToolError::model(format!(
            "{path} is a binary file of {size} bytes without lines to show; inspect it with bash (file, xxd, strings)"
        ))),
        None => page.finish(&path),
    }
}

/// What is wrong with a path, with near matches where there is no such file, and the right tool for a directory.
pub(super) fn explain(context: &ToolContext, path: &RelativePath, error: PathError) -> ToolError {
    match error.problem {
        Problem::IsDirectory => ToolError::model(format!("{path} is a directory; list it with ls")),
        Problem::NotFound => match near(&context.workspace, path, &context.hidden) {
            near if near.is_empty() => ToolError::from(error),
            near => ToolError::model(format!("{error}; did you mean {}?", near.join(" or "))),
        },
        _ => ToolError::from(error),
    }
}

fn near(workspace: &Workspace, path: &RelativePath, hidden: &Hidden) -> Vec<String> {
    let path = path.as_path();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    let siblings = workspace.names(&RelativePath::found(parent)).unwrap_or_default();
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, String)> = siblings
        .into_iter()
        .map(|sibling| (strsim::jaro_winkler(&wanted, &sibling.to_lowercase()), sibling))
        .filter(|(score, name)| *score > 0.8 && !hidden.hides(&parent.join(name)))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut near: Vec<String> =
        scored.into_iter().take(NEAR_MATCHES).map(|(_, name)| parent.join(name).display().to_string()).collect();
    if near.is_empty() {
        near = workspace.namesakes(name, NEAR_MATCHES, |path| hidden.hides(path));
    }
    near
}

/// The hash of a file's content, read piece by piece; none if cancelled.
pub(super) fn hash_file(file: File, cancel: &CancellationToken) -> std::io::Result<Option<[u8; 32]>> {
    // A file that grows while it is read does not keep us here.
    let size = file.metadata()?.len();
    each_chunk(&[], file.take(size), cancel, |_| {})
}

fn each_chunk(
    start: &[u8],
    mut rest: impl Read,
    cancel: &CancellationToken,
    mut each: impl FnMut(&[u8]),
) -> std::io::Result<Option<[u8; 32]>> {
    let mut hash = Sha256::new();
    hash.update(start);
    each(start);
    let mut chunk = vec![0; 256 * 1024];
    loop {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        match rest.read(&mut chunk) {
            Ok(0) => return Ok(Some(hash.finalize().into())),
            Ok(count) => {
                hash.update(&chunk[..count]);
                each(&chunk[..count]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Picks lines out of a stream of bytes and holds no more than it shows.
struct Page {
    first: usize,
    limit: usize,
    /// Number of the line that the next byte belongs to.
    number: usize,
    /// The start of that line, if it is to be shown.
    line: Vec<u8>,
    columns: usize,
    /// Whether that line has any byte.
    begun: bool,
    shown: usize,
    cut_lines: usize,
    text: String,
}

impl Page {
    fn new(first: usize, limit: usize) -> Self {
        let (line, text) = (Vec::new(), String::new());
        Self { first, limit, number: 1, line, columns: 0, begun: false, shown: 0, cut_lines: 0, text }
    }

    fn take(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (bytes, ends) = match piece.split_last() {
                Some((b'\n', bytes)) => (bytes, true),
                _ => (piece, false),
            };
            self.begun = true;
            if self.wanted() {
                self.keep(bytes);
            }
            if ends {
                self.end_line();
            }
        }
    }

    /// Whether the current line is shown: the lines shown so far are those just before it.
    fn wanted(&self) -> bool {
        self.number >= self.first
            && self.shown < self.limit
            && self.number == self.first + self.shown
            && self.text.len() < MAX_BYTES
    }

    fn keep(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if byte & 0xc0 != 0x80 {
                self.columns += 1;
            }
            // A character has at most four bytes; the second bound is for what is no UTF-8.
            if self.columns <= MAX_COLUMNS && self.line.len() < MAX_COLUMNS * 4 {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        if self.wanted() {
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            // A byte order mark is no part of what a model would write down again.
            let line = if self.number == 1 { line.strip_prefix(BOM).unwrap_or(line) } else { line };
            // Writing to a String does not fail.
            let _ = write!(self.text, "{:>6}\t{}", self.number, String::from_utf8_lossy(line));
            if self.columns > MAX_COLUMNS {
                let _ = write!(self.text, " [line cut: {} columns]", self.columns);
                self.cut_lines += 1;
            }
            self.text.push('\n');
            self.shown += 1;
        }
        self.line.clear();
        (self.columns, self.begun) = (0, false);
        self.number += 1;
    }

    fn finish(mut self, path: &RelativePath) -> Result<ToolOutput, ToolError> {
        if self.begun {
            self.end_line();
        }
        let total = self.number - 1;
        if total == 0 {
            return Ok(ToolOutput {
                metadata: Some(json!({"lines": 0, "total_lines": 0, "truncated": false})),
                ..ToolOutput::words(format!("{path} is empty"))
            });
        }
        if self.first > total {
            let words = format!("offset {} is past the end: {path} has {total} lines", self.first);
            return Err(ToolError::model(words));
        }
        let last = self.first + self.shown - 1;
        let truncated = last < total;
        if truncated {
            let _ = write!(self.text, "(lines {} to {last} of {total}; go on with offset {})", self.first, last + 1);
        }
        let metadata = json!({"lines": self.shown, "total_lines": total, "truncated": truncated || self.cut_lines > 0});
        Ok(ToolOutput { metadata: Some(metadata), ..ToolOutput::words(self.text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(content: &[u8], first: usize, limit: usize) -> Result<String, String> {
        let mut page = Page::new(first, limit);
        // Byte by byte: no line or character may depend on where a read ends.
        content.iter().for_each(|byte| page.take(std::slice::from_ref(byte)));
        match page.finish(&RelativePath::found(Path::new("f"))) {
            Ok(output) => Ok(output.content),
            Err(ToolError::ForModel(words)) => Err(words),
            Err(ToolError::Fatal(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn pages_tell_where_they_end() {
        assert_eq!(page(b"a\r\n\xc3\xa9\nc", 1, 9).unwrap(), "     1\ta\n     2\té\n     3\tc\n");
        assert_eq!(page(b"a\nb\nc\n", 2, 1).unwrap(), "     2\tb\n(lines 2 to 2 of 3; go on with offset 3)");
        assert_eq!(page(b"", 1, 9).unwrap(), "f is empty");
        assert_eq!(page(b"a\n", 2, 9).unwrap_err(), "offset 2 is past the end: f has 1 lines");
        let long = "é".repeat(MAX_COLUMNS + 5);
        let shown = page(long.as_bytes(), 1, 9).unwrap();
        assert!(shown.ends_with("é [line cut: 2005 columns]\n") && shown.matches('é').count() == MAX_COLUMNS);
    }
}
