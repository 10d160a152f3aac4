//! Runs the fuzz targets on the committed corpus (`tests/fuzz/corpus`), on its samples with a few changes, and on garbage.
//! `tests/run fuzz` runs them longer, with libFuzzer.

use std::{fs, path::PathBuf};

use proptest::{collection::vec, prelude::*, sample::Index};

#[path = "fuzz/targets/mod.rs"]
mod targets;

fn corpus_folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fuzz", name].iter().collect()
}

/// The names and contents of the files of a folder, sorted by name.
fn corpus_files(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus_folder(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {name}");
    files
}

/// A change of an input. Each `Index` chooses a position or a sample.
#[derive(Clone, Debug)]
enum Mutation {
    Put(Index, u8),
    Flip(Index, u8),
    Remove(Index, Index),
    Repeat(Index, Index),
    /// Inserts the end of another sample.
    Splice(Index, Index, Index),
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[]:,.=%&;#$*\n\r \0\xff019az".as_slice())];
    prop_oneof![
        (any::<Index>(), byte).prop_map(|(at, byte)| Mutation::Put(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Remove(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Repeat(from, to)),
        any::<(Index, Index, Index)>().prop_map(|(at, sample, from)| Mutation::Splice(at, sample, from)),
    ]
}

impl Mutation {
    fn apply(&self, input: &mut Vec<u8>, samples: &[(String, Vec<u8>)]) {
        let span = |from: &Index, to: &Index| {
            let (from, to) = (from.index(input.len() + 1), to.index(input.len() + 1));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Put(at, byte) => input.insert(at.index(input.len() + 1), *byte),
            Self::Flip(_, _) if input.is_empty() => {}
            Self::Flip(at, bit) => {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            Self::Remove(from, to) => drop(input.drain(span(from, to))),
            Self::Repeat(from, to) => {
                let (span, at) = (span(from, to), span(from, to).end);
                let piece = input[span].to_vec();
                input.splice(at..at, piece);
            }
            Self::Splice(at, sample, from) => {
                let (_, sample) = &samples[sample.index(samples.len())];
                let (at, from) = (at.index(input.len() + 1), from.index(sample.len() + 1));
                input.splice(at..at, sample[from..].iter().copied());
            }
        }
    }
}

/// A sample of the target's corpus with up to five changes, or garbage.
fn mutated_input(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let samples = corpus_files(&format!("corpus/{target}"));
    let changed = (any::<Index>(), vec(any_mutation(), 0..6)).prop_map(move |(sample, changes)| {
        let (_, mut input) = samples[sample.index(samples.len())].clone();
        changes.iter().for_each(|change| change.apply(&mut input, &samples));
        input.truncate(10_000);
        input
    });
    prop_oneof![4 => changed, 1 => vec(any::<u8>(), 0..400)]
}

#[test]
fn every_fuzz_target_passes_every_corpus_sample() {
    for (name, target) in targets::TARGETS {
        for (sample, input) in corpus_files(&format!("corpus/{name}")) {
            // If the target panics, the captured output ends with its sample.
            println!("{name}: {sample}");
            target(&input);
        }
    }
}

proptest! {
    // An input that is found is committed to the corpus, with which libFuzzer begins too.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn credential_is_found_only_at_enabled_doors(input in mutated_input("credentials")) {
        targets::credentials(&input);
    }

    #[test]
    fn signed_claims_are_bounded_and_altered_tokens_are_refused(input in mutated_input("claims")) {
        targets::claims(&input);
    }

    #[test]
    fn channel_permissions_never_exceed_grants(input in mutated_input("channel")) {
        targets::channel(&input);
    }

    #[test]
    fn frame_parsing_does_not_depend_on_network_segments(input in mutated_input("frames")) {
        targets::frames(&input);
    }

    #[test]
    fn line_is_one_command_and_its_data_stays_inside_the_push(input in mutated_input("command")) {
        targets::command(&input);
    }

    #[test]
    fn compressed_messages_are_inflated_as_by_another_inflater_or_refused(input in mutated_input("deflate")) {
        targets::deflate(&input);
    }

    #[test]
    fn requests_for_streams_mean_what_they_say_or_are_refused(input in mutated_input("stream_requests")) {
        targets::stream_requests(&input);
    }

    #[test]
    fn delta_reproduces_its_target_and_garbage_stays_within_the_size_limit(input in mutated_input("delta")) {
        targets::delta(&input);
    }

    #[test]
    fn filter_matches_as_a_reference_evaluation_of_its_tree(input in mutated_input("filter")) {
        targets::filter(&input);
    }

    #[test]
    fn protobuf_command_means_the_same_as_its_json_form(input in mutated_input("protobuf")) {
        targets::protobuf(&input);
    }

    #[test]
    fn accepted_logout_token_is_of_its_issuer_for_this_application_and_of_no_other_kind(
        input in mutated_input("logout_token")
    ) {
        targets::logout_token(&input);
    }

    #[test]
    fn origin_has_one_normal_form_and_matches_no_similar_origin(input in mutated_input("origin")) {
        targets::origin(&input);
    }

    #[test]
    fn refresh_token_is_accepted_only_as_it_was_made(input in mutated_input("refresh_token")) {
        targets::refresh_token(&input);
    }

    #[test]
    fn target_of_a_revocation_is_valid_and_has_one_text(input in mutated_input("revocation")) {
        targets::revocation(&input);
    }

    #[test]
    fn exactly_one_proxy_header_is_consumed(input in mutated_input("proxy")) {
        targets::proxy(&input);
    }
}
