//! The tables of the audit log in docs/deploying.md are generated from the events and fields in src/audit.

use std::collections::BTreeSet;

use wardcast::audit::{AuditEvent, AuditFields};

use crate::support::generated::assert_section_generated;

const PAGE: &str = "docs/deploying.md";

#[test]
fn audit_events_and_fields_are_documented() {
    let events = AuditEvent::ALL.iter().map(|(_, name, meaning)| (*name, *meaning));
    assert_section_generated(PAGE, "audit events", &table("event", events));
    assert_section_generated(PAGE, "audit fields", &table("field", AuditFields::ALL.iter().copied()));
}

#[test]
fn names_of_audit_events_and_fields_are_unique_and_have_meanings() {
    let events = AuditEvent::ALL.iter().map(|(event, name, meaning)| {
        assert_eq!(event.name(), *name);
        (*name, *meaning)
    });
    let all: Vec<_> = events.chain(AuditFields::ALL.iter().copied()).collect();
    assert_eq!(all.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), all.len());
    for (name, meaning) in all {
        assert!(meaning.ends_with('.') && !meaning.contains('|'), "{name}: {meaning:?}");
    }
}

fn table<'a>(kind: &str, rows: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let rows: String = rows.map(|(name, meaning)| format!("| `{name}` | {meaning} |\n")).collect();
    format!("| {kind} | meaning |\n|---|---|\n{rows}")
}
