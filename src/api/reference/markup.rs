//! The markup in the texts of the table: code between grave accents, and links to sections of the same page.

/// Writes text as HTML.
pub(super) fn to_html(text: &str) -> String {
    let code = |(number, part): (usize, &str)| {
        let escaped = escape(part);
        if number % 2 == 1 { format!("<code>{escaped}</code>") } else { links_to_html(&escaped) }
    };
    text.split('`').enumerate().map(code).collect()
}

/// Writes text as HTML without any markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Replaces `[text](#section)` in escaped text.
fn links_to_html(text: &str) -> String {
    let Some((before, rest)) = text.split_once('[') else { return text.to_owned() };
    let link = rest.split_once("](#").and_then(|(shown, rest)| Some((shown, rest.split_once(')')?)));
    match link {
        Some((shown, (section, after))) => {
            format!("{before}<a href=\"#{section}\">{shown}</a>{}", links_to_html(after))
        }
        None => format!("{before}[{}", links_to_html(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_html_and_everything_else_is_escaped() {
        assert_eq!(to_html("a `b<c>` \"d\" & e"), "a <code>b&lt;c&gt;</code> &quot;d&quot; &amp; e");
        assert_eq!(to_html("one of the [causes](#causes), [x]"), "one of the <a href=\"#causes\">causes</a>, [x]");
        assert_eq!(to_html("`list[].name` [1"), "<code>list[].name</code> [1");
    }
}
