//! Documents within a command line (`<<E`): where the parser and the shell could be of two minds about where one ends, what
//! the one takes for text the other would run.

use tree_sitter::Node;

/// Whether a document is of the kind that everybody reads in one way: its end is a bare word, or one in simple quotes, that
/// stands for itself in its line and in no line before; nothing of a command stands behind it; and what the shell replaces
/// in it is known to the parser.
pub(super) fn is_plain(node: Node<'_>, text: &str) -> bool {
    let mut cursor = node.walk();
    let (mut start, mut body, mut end) = (None, None, None);
    for child in node.children(&mut cursor) {
        match child.kind() {
            "heredoc_start" => start = Some(child),
            "heredoc_body" => body = Some(child),
            "heredoc_end" => end = Some(child),
            // Tabs before its end do not count for the shell.
            "<<-" => return false,
            _ => {}
        }
    }
    let said = |node: Node<'_>| node.utf8_text(text.as_bytes()).unwrap_or_default();
    let (Some(start), Some(end)) = (start.map(said), end) else { return false };
    let word = ['\'', '"'].iter().find_map(|quote| start.strip_prefix(*quote)?.strip_suffix(*quote));
    let (word, is_quoted) = (word.unwrap_or(start), word.is_some());
    let is_bare = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    // Whole lines, as the shell compares them.
    let from = text[..end.start_byte()].rfind('\n').map_or(0, |at| at + 1);
    let line = text[from..].lines().next().unwrap_or_default();
    let inside = body.map_or("", |body| text.get(body.start_byte()..from).unwrap_or_default());
    let replaces_more = !is_quoted && (inside.contains('`') || inside.contains("\\\n"));
    is_bare
        && line == word
        && inside.lines().all(|line| line != word)
        && !replaces_more
        && node.child_by_field_name("argument").is_none()
        // Of two on one line the order would have to be known too.
        && text.matches("<<").count() == 1
}
