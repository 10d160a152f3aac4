//! Every list of codes agrees with the codes that are declared in src/protocol: docs/codes.md is generated from them, and the
//! README's short list and the demo page's advice name no other code.

use std::{collections::BTreeSet, fmt::Write, fs};

use wardcast::protocol::{CodeInfo, Disconnect, ErrorCode, FrameRule, UnsubscribeCode, disconnect::VIOLATIONS};

use crate::support::{generated::assert_section_generated, repository};

const PAGE: &str = "docs/codes.md";

#[test]
fn codes_page_is_generated_from_the_declared_codes() {
    assert_section_generated(PAGE, "errors", &table("message", &errors()));
    assert_section_generated(PAGE, "unsubscribe codes", &table("reason", &unsubscribes()));
    assert_section_generated(PAGE, "close codes", &table("reason", &closes()));
    assert_section_generated(PAGE, "frame rules", &frame_rules());
}

#[test]
fn demo_page_gives_advice_for_every_error_and_close_code() {
    let advice = read("src/web/page/channel_advice.js");
    let (commands, _) = advice.split_once("export function forCommand").unwrap().1.split_once("\n}\n").unwrap();
    // 0 is the page's own code for a call without a connection.
    let handled = numbers_between(commands, "case ", ":").into_iter().filter(|code| *code != 0);
    assert_same_codes("forCommand of src/web/page/channel_advice.js", handled, &errors());
    let advice = read("src/web/page/advice.js");
    let closes_of_page = advice.split_once("const CLOSES = {").unwrap().1.split_once("\n};").unwrap().0;
    let handled = closes_of_page.lines().filter_map(|line| line.trim().split_once(": ")?.0.parse().ok());
    assert_same_codes("CLOSES of src/web/page/advice.js", handled, Disconnect::ALL);
}

#[test]
fn readme_names_only_codes_that_exist() {
    let readme = read("README.md");
    let (mut count, kinds) = (0, [("error", errors()), ("unsubscribe", unsubscribes()), ("close", closes())]);
    for row in readme.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cell = row.split(" |").next().unwrap();
        let Some((_, known)) = kinds.iter().find(|(kind, _)| cell.starts_with(&format!("{kind} "))) else { continue };
        for code in numbers(cell) {
            assert!(known.iter().any(|info| info.code == code), "README.md: {code} in {row:?} is not declared");
            count += 1;
        }
    }
    assert!(count > 5, "{count} codes");
}

#[test]
fn codes_are_declared_in_ascending_order_with_complete_descriptions() {
    for kind in [errors(), unsubscribes(), closes()] {
        assert!(kind.is_sorted_by_key(|info| info.code), "{kind:?}");
        for CodeInfo { code, sent_when, sdk_reaction, advice, .. } in kind {
            assert!(sent_when.ends_with('.') && advice.ends_with('.'), "{code}: write sentences");
            assert!(!sdk_reaction.is_empty() && !format!("{sent_when}{advice}").contains('|'), "{code}");
        }
    }
}

/// The configuration keys that descriptions of codes and of the server API name exist.
#[test]
fn configuration_keys_in_descriptions_exist() {
    let defaults: toml::Table = read("config/default.toml").parse().unwrap();
    let text = read(PAGE) + &read("docs/server-api.md");
    let sections: Vec<&String> = defaults.keys().collect();
    let named = text.split('`').skip(1).step_by(2).filter_map(|code| code.split([' ', '=']).next()?.split_once('.'));
    let named: BTreeSet<(&str, &str)> =
        named.filter(|(section, key)| sections.iter().any(|known| known == section) && !key.contains('*')).collect();
    assert!(named.len() > 20, "{named:?}");
    let unknown: Vec<_> = named.into_iter().filter(|(section, key)| defaults[*section].get(key).is_none()).collect();
    assert!(unknown.is_empty(), "not in config/default.toml: {unknown:?}");
}

fn errors() -> Vec<CodeInfo> {
    ErrorCode::ALL.iter().map(|(_, info)| *info).collect()
}

fn unsubscribes() -> Vec<CodeInfo> {
    UnsubscribeCode::ALL.iter().map(|(_, info)| *info).collect()
}

fn closes() -> Vec<CodeInfo> {
    [VIOLATIONS, Disconnect::ALL].concat()
}

fn table(text_column: &str, codes: &[CodeInfo]) -> String {
    let mut table = format!("| code | {text_column} | when | an SDK | what to do |\n|---|---|---|---|---|\n");
    for CodeInfo { code, text, sent_when, sdk_reaction, advice } in codes {
        let text = if text.is_empty() { "the broken rule".to_owned() } else { format!("`{text}`") };
        writeln!(table, "| {code} | {text} | {sent_when} | {sdk_reaction} | {advice} |").unwrap();
    }
    table
}

fn frame_rules() -> String {
    let mut table = "| reason of 1002 | where the rule is |\n|---|---|\n".to_owned();
    for rule in FrameRule::ALL {
        writeln!(table, "| `{}` | {} |", rule.text(), rule.section()).unwrap();
    }
    table
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

#[track_caller]
fn assert_same_codes(list: &str, handled: impl Iterator<Item = u32>, declared: &[CodeInfo]) {
    let handled: BTreeSet<u32> = handled.collect();
    let declared: BTreeSet<u32> = declared.iter().map(|info| info.code).collect();
    let missing: Vec<_> = declared.difference(&handled).collect();
    let unknown: Vec<_> = handled.difference(&declared).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{list} lacks {missing:?}, and has {unknown:?}, which are not declared"
    );
}

fn numbers_between(text: &str, before: &str, after: &str) -> Vec<u32> {
    text.split(before).skip(1).filter_map(|rest| rest.split(after).next()?.parse().ok()).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split(|character: char| !character.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}
