//! What stands between the nodes of a command line. The parser leaves out more than a shell does: a blank behind a backslash,
//! a line break, and words such as `==` or `$` that it takes for operators.

use tree_sitter::Node;

/// Operators of a redirection.
const OPERATORS: [&str; 11] = ["<", ">", ">>", "&>", "&>>", "<&", ">&", ">|", "<&-", ">&-", "<<<"];

/// What may hold line breaks between its parts.
const SEVERAL_LINES: [&str; 19] = [
    "program",
    "list",
    "pipeline",
    "redirected_statement",
    "subshell",
    "compound_statement",
    "if_statement",
    "elif_clause",
    "else_clause",
    "for_statement",
    "while_statement",
    "do_group",
    "case_statement",
    "case_item",
    "function_definition",
    "heredoc_redirect",
    "heredoc_body",
    "command_substitution",
    "process_substitution",
];

/// Whether all that a node does not name is blanks between words, line breaks between commands, and operators where they
/// belong.
pub(super) fn are_plain(node: Node<'_>, text: &str) -> bool {
    let is_redirection = matches!(node.kind(), "file_redirect" | "herestring_redirect");
    let has_words = is_redirection || node.kind() == "command";
    let is_one_line = !SEVERAL_LINES.contains(&node.kind());
    let mut cursor = node.walk();
    let mut end = None;
    for child in node.children(&mut cursor) {
        let gap = end.and_then(|end| text.get(end..child.start_byte())).unwrap_or_default();
        if !is_blank(gap, is_one_line) {
            return false;
        }
        let is_expected = child.is_named() || !has_words || is_redirection && OPERATORS.contains(&child.kind());
        if !is_expected || (node.kind() == "for_statement" && matches!(child.kind(), "$" | "==" | "=~" | "``")) {
            return false;
        }
        end = Some(child.end_byte());
    }
    // An escaped blank belongs to a word.
    let before = &text[..node.start_byte()];
    let is_escaped = before.strip_suffix([' ', '\t']).is_some_and(|before| before.ends_with('\\'));
    let is_broken = node.kind() == "word" && text[node.byte_range()].contains('\n');
    !(is_broken || node.kind() == "comment" && is_escaped)
}

fn is_blank(gap: &str, is_one_line: bool) -> bool {
    let gap = gap.replace("\\\n", "");
    gap.chars().all(|c| matches!(c, ' ' | '\t') || c == '\n' && !is_one_line)
}
