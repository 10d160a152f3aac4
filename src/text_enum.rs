//! Enums whose variants each have a text: a name on the wire, or a sentence.

/// Declares such an enum, with the list `ALL` of its variants and a method that returns the text of a variant. So each variant is stated once.
macro_rules! text_enum {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $(#[doc = $about:literal])+
            fn $method:ident;
            $($(#[$variant_attribute:meta])* $variant:ident = $text:literal;)+
        }
    ) => {
        $(#[$attribute])*
        pub enum $name {
            $($(#[$variant_attribute])* #[doc = ""] #[doc = $text] $variant,)+
        }

        impl $name {
            /// All variants, in their order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            $(#[doc = $about])+
            pub const fn $method(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

pub(crate) use text_enum;
