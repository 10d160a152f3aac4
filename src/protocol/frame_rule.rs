//! The rules of WebSocket frames that clients can break. Each has the text that the hub sends as the reason of close code 1002, and the
//! section that demands it. `docs/codes.md` is generated from them.

/// Declares [`FrameRule`]: for each rule its name, its text and its section.
macro_rules! frame_rules {
    ($($name:ident = $text:literal, $section:literal;)+) => {
        /// A rule of WebSocket frames. A connection whose client breaks one is closed with 1002.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FrameRule {
            $(#[doc = concat!($section, ": ", $text, ".")] $name,)+
        }

        impl FrameRule {
            /// All rules, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Returns the reason in the close frame.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Returns the section that demands the rule.
            pub fn section(self) -> &'static str {
                match self { $(Self::$name => $section,)+ }
            }
        }
    };
}

frame_rules! {
    ValidFrame = "invalid frame", "RFC 6455 §5";
    Masked = "client frames must be masked", "RFC 6455 §5.1";
    ReservedBits = "reserved bits must be zero", "RFC 6455 §5.2, RFC 7692 §6";
    KnownOpcode = "unknown opcode", "RFC 6455 §5.2";
    ShortestLength = "payload lengths must be in the shortest form", "RFC 6455 §5.2";
    OpenMessage = "continuation frame without a message to continue", "RFC 6455 §5.4";
    OneMessageAtATime = "new message inside a fragmented message", "RFC 6455 §5.4";
    SmallControlFrame = "control frames must be unfragmented and at most 125 bytes long", "RFC 6455 §5.5";
    WholeCloseCode = "close code of one byte", "RFC 6455 §5.5.1";
    AllowedCloseCode = "close code not allowed on the wire", "RFC 6455 §7.4";
    ValidCompression = "invalid compressed message", "RFC 7692 §7.2";
}
