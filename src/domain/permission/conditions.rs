//! Conditions (`[ -f a ]`): one of its tests, `-v`, evaluates a name, and that can hold a command. Which words are operators
//! the shell knows only when it runs.

use tree_sitter::Node;

/// Whether a condition is one whose operators stand in the line: every word is known or in quotes, and what is only known
/// when it runs is an operand of an operator that is there. The parser lets in more than a condition may hold, such as
/// redirections and other commands.
pub(super) fn is_plain(node: Node<'_>, text: &str) -> bool {
    let said = |node: Node<'_>| node.utf8_text(text.as_bytes()).unwrap_or_default();
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        let said_here = said(node);
        let is_plain = match node.kind() {
            "test_command" => !said_here.contains('\n'),
            "[" | "]" | "=" | "==" | "!=" | "!" | "\"" => true,
            "binary_expression" | "string_content" | "raw_string" | "number" => true,
            "extglob_pattern" => said_here.chars().all(|c| c.is_ascii_alphanumeric()),
            "unary_expression" => {
                let operator = node.child(0).map(said);
                operator.is_some_and(|operator| operator != "!" || !said_here.contains(['$', '`']))
            }
            "test_operator" => !matches!(said_here, "-v" | "-R"),
            // Names of files would be put in for it.
            "word" => !said_here.contains(['*', '?', '[', '{', '~', '|', '&', '<', '>', ';', '(', ')']),
            "string" => node.parent().is_some_and(|above| {
                let is_operand = matches!(above.kind(), "unary_expression" | "binary_expression");
                is_operand || !said_here.contains(['$', '`'])
            }),
            "simple_expansion" | "expansion" | "command_substitution" => {
                // What is in the substitution is a command of its own.
                if node.parent().is_none_or(|above| above.kind() != "string") {
                    return false;
                }
                continue;
            }
            _ => false,
        };
        if !is_plain {
            return false;
        }
        let mut cursor = node.walk();
        nodes.extend(node.children(&mut cursor));
    }
    true
}
