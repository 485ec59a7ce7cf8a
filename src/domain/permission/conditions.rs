//! Conditions (`[ -f a ]`): one of its tests, `-v`, evaluates a name, and that can hold a command. Which words are operators
//! the shell knows only when it runs.

use tree_sitter::Node;

/// Whether a condition is one whose operators stand in the line: every word is known or in quotes, and what is only known
/// when it runs is an operand of an operator that is there.
pub(super) fn is_plain(node: Node<'_>, text: &str) -> bool {
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        let said = node.utf8_text(text.as_bytes()).unwrap_or_default();
        let is_plain = match node.kind() {
            "test_command"
            | "binary_expression"
            | "string_content"
            | "raw_string"
            | "number"
            | "variable_name"
            | "special_variable_name" => true,
            "unary_expression" => {
                let operator = node.child(0).and_then(|first| first.utf8_text(text.as_bytes()).ok());
                operator.is_some_and(|text| text != "!" || !said.contains(['$', '`']))
            }
            "test_operator" => !matches!(said, "-v" | "-R"),
            // Names of files would be put in for it.
            "word" => !said.contains(['*', '?', '[', '{', '~']),
            "string" => node.parent().is_some_and(|above| {
                let is_operand = matches!(above.kind(), "unary_expression" | "binary_expression");
                is_operand || !said.contains(['$', '`'])
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
        nodes.extend(node.named_children(&mut cursor));
    }
    true
}
