//! Invisible characters: two names that differ only in them look the same. By the properties of the Unicode Character
//! Database, in the version that the crate `icu_properties` has.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory, NoncharacterCodePoint, PrependedConcatenationMark},
};

/// Returns whether a character is invisible, or only changes how others are displayed: control and format characters,
/// spaces other than U+0020, default-ignorable code points (zero-width spaces and joiners, variation selectors, fillers,
/// tags, bidirectional controls), noncharacters, and characters with an empty glyph.
pub fn is_invisible(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    character.is_whitespace()
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
        || CodePointSetData::new::<NoncharacterCodePoint>().contains(character)
        || has_empty_glyph(character)
        || match CodePointMapData::<GeneralCategory>::new().get(character) {
            GeneralCategory::Control => true,
            // Arabic number signs and their like are of this category, too, and have a glyph.
            GeneralCategory::Format => !CodePointSetData::new::<PrependedConcatenationMark>().contains(character),
            _ => false,
        }
}

/// Returns whether a character is empty by its name and by no property: BRAILLE PATTERN BLANK, OBJECT REPLACEMENT
/// CHARACTER, KHITAN SMALL SCRIPT FILLER and MUSICAL SYMBOL NULL NOTEHEAD.
fn has_empty_glyph(character: char) -> bool {
    matches!(character, '\u{2800}' | '\u{fffc}' | '\u{16fe4}' | '\u{1d159}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_ignorable_and_other_invisible_characters_are_invisible() {
        for range in [
            '\0'..='\u{1f}',
            '\u{7f}'..='\u{a0}',
            '\u{ad}'..='\u{ad}',
            '\u{34f}'..='\u{34f}',
            '\u{61c}'..='\u{61c}',
            '\u{115f}'..='\u{1160}',
            '\u{1680}'..='\u{1680}',
            '\u{17b4}'..='\u{17b5}',
            '\u{180b}'..='\u{180f}',
            '\u{2000}'..='\u{200f}',
            '\u{2028}'..='\u{202f}',
            '\u{205f}'..='\u{206f}',
            '\u{2800}'..='\u{2800}',
            '\u{3000}'..='\u{3000}',
            '\u{3164}'..='\u{3164}',
            '\u{fdd0}'..='\u{fdef}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{ffa0}'..='\u{ffa0}',
            '\u{fff0}'..='\u{fffc}',
            '\u{fffe}'..='\u{ffff}',
            '\u{13430}'..='\u{1343f}',
            '\u{16fe4}'..='\u{16fe4}',
            '\u{1bca0}'..='\u{1bca3}',
            '\u{1d159}'..='\u{1d159}',
            '\u{1d173}'..='\u{1d17a}',
            '\u{e0000}'..='\u{e0fff}',
            '\u{10fffe}'..='\u{10ffff}',
        ] {
            for character in range {
                assert!(is_invisible(character), "U+{:04X}", u32::from(character));
            }
        }
    }

    #[test]
    fn visible_characters_of_any_script_are_not() {
        let text = " aZ0~!éßжñ日本語한글عربيहिन्दीไทย\u{600}\u{6dd}\u{70f}\u{110bd}😀👩\u{1f3fd}€—…·«»\u{e000}\u{fffd}";
        for character in text.chars() {
            assert!(!is_invisible(character), "U+{:04X}", u32::from(character));
        }
    }

    #[test]
    fn most_characters_are_visible() {
        let invisible = ('\0'..=char::MAX).filter(|character| is_invisible(*character)).count();
        // 4,174 default-ignorable code points, of which 4,096 are tags and reserved beside them.
        assert!((4300..4500).contains(&invisible), "{invisible}");
    }
}
