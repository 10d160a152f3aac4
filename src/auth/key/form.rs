//! Recognizes what a key file contains instead of the PEM of a public key, and names the command that converts it. Never quotes
//! the file.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::der::{BIT_STRING, INTEGER, SEQUENCE, single_element, take_element};

/// Returns what the file is, and the remedy. The file is not a PEM of a public key that can be used.
pub(super) fn describe(bytes: &[u8], path: &Path) -> String {
    let file = quoted(path);
    if bytes.trim_ascii().is_empty() {
        return "is empty; write the PEM of the public key (BEGIN PUBLIC KEY) into it".to_owned();
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return format!("is UTF-16; convert it with: iconv -f UTF-16 -t UTF-8 {file} > public.pem");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => describe_text(text.trim(), &file),
        Err(_) => match DerForm::of(bytes) {
            Some(form) => {
                format!("is {} in DER, not PEM; convert it with: {}", form.name(), form.command(&file, "DER"))
            }
            None => format!("is neither PEM nor DER; {EXPORT}"),
        },
    }
}

const EXPORT: &str = "a key file has the public key as PEM (BEGIN PUBLIC KEY), made from the private key with: openssl pkey -in \
    private.pem -pubout -out public.pem";

fn describe_text(text: &str, file: &str) -> String {
    if text.contains("-----BEGIN") && text.contains("\\n") {
        let first = format!("printf '%b\\n' \"$(tr -d '\"' < {file})\" > key.pem");
        let whole = text.replace("\\n", "\n");
        let then = match pem_label(&whole) {
            Some("PUBLIC KEY") => String::new(),
            _ => format!("; the result {}", describe_text(whole.trim_matches(['"', '\'']).trim(), "key.pem")),
        };
        return format!("has \\n written out instead of line breaks; restore them with: {first}{then}");
    }
    if let Some(label) = pem_label(text) {
        return describe_pem(label, file);
    }
    if ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|prefix| text.starts_with(prefix)) {
        return ssh("is a public key in the format of OpenSSH", file);
    }
    if text.starts_with("---- BEGIN SSH2") {
        return format!(
            "is a public key in the format of SSH2; convert it with: ssh-keygen -i -f {file} > ssh.pub && ssh-keygen -e -m PKCS8 \
             -f ssh.pub > public.pem"
        );
    }
    if text.starts_with(['{', '[']) {
        return if text.contains("\"keys\"") {
            "is a JWK set; name it with jwks instead of file, without id".to_owned()
        } else {
            "is JSON; if it is a JWK, put its text into jwk instead of naming its file".to_owned()
        };
    }
    let bare: String = text.split_whitespace().collect();
    match BASE64_STANDARD.decode(bare).ok().and_then(|der| DerForm::of(&der)) {
        Some(form) => {
            let command = form.command("/dev/stdin", "DER");
            format!(
                "is {} in Base64, without the lines BEGIN and END; convert it with: base64 -d < {file} | {command}",
                form.name()
            )
        }
        None => format!("contains no PEM; {EXPORT}"),
    }
}

/// Returns the label of the first PEM block, or that of a private key if there is one: it must not be in the file.
fn pem_label(text: &str) -> Option<&str> {
    let labels = || text.split("-----BEGIN ").skip(1).filter_map(|block| block.split("-----").next());
    labels().find(|label| label.ends_with("PRIVATE KEY")).or_else(|| labels().next())
}

fn describe_pem(label: &str, file: &str) -> String {
    match label {
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => format!(
            "is a certificate; get the public key in it with: openssl x509 -in {file} -pubkey -noout > public.pem"
        ),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => format!(
            "is a certificate request; get the public key in it with: openssl req -in {file} -pubkey -noout > public.pem"
        ),
        "RSA PUBLIC KEY" => format!(
            "is a public key in PKCS#1; convert it with: openssl rsa -RSAPublicKey_in -in {file} -pubout -out public.pem"
        ),
        "OPENSSH PRIVATE KEY" => ssh("is a private key of OpenSSH, but verifying needs the public one", file),
        _ if label.ends_with("PRIVATE KEY") => format!(
            "contains a private key, but verifying needs the public one, and the private one should not be on this machine; \
             create it with: openssl pkey -in {file} -pubout -out public.pem"
        ),
        "PUBLIC KEY" => format!(
            "has a public key that is damaged, or not of RSA, P-256, P-384 or Ed25519; copy it again, or create it from such a \
             private key; {EXPORT}"
        ),
        _ => format!("is PEM, but not of a public key; {EXPORT}"),
    }
}

fn ssh(is: &str, file: &str) -> String {
    format!(
        "{is}; convert it with: ssh-keygen -e -m PKCS8 -f {file} > public.pem (RSA and ECDSA; not possible for Ed25519)"
    )
}

/// The form of a DER element.
#[derive(Clone, Copy)]
enum DerForm {
    /// SubjectPublicKeyInfo (RFC 5280 §4.1).
    PublicKey,
    /// RSAPublicKey (RFC 8017 §A.1.1).
    Pkcs1PublicKey,
    Certificate,
    PrivateKey,
}

impl DerForm {
    fn of(der: &[u8]) -> Option<Self> {
        let mut rest = single_element(SEQUENCE, der)?;
        if take_element(INTEGER, &mut { rest }).is_some() {
            // A modulus is long, a version is not.
            let first = take_element(INTEGER, &mut rest)?;
            let is_public = first.len() > 16 && take_element(INTEGER, &mut rest).is_some() && rest.is_empty();
            return Some(if is_public { Self::Pkcs1PublicKey } else { Self::PrivateKey });
        }
        take_element(SEQUENCE, &mut rest)?;
        let is_key = take_element(BIT_STRING, &mut { rest }).is_some();
        Some(if is_key { Self::PublicKey } else { Self::Certificate })
    }

    fn name(self) -> &'static str {
        match self {
            Self::PublicKey => "a public key",
            Self::Pkcs1PublicKey => "a public key in PKCS#1",
            Self::Certificate => "a certificate",
            Self::PrivateKey => "a private key, but verifying needs the public one,",
        }
    }

    fn command(self, file: &str, form: &str) -> String {
        match self {
            Self::PublicKey => format!("openssl pkey -pubin -inform {form} -in {file} -pubout -out public.pem"),
            Self::Pkcs1PublicKey => {
                format!("openssl rsa -RSAPublicKey_in -inform {form} -in {file} -pubout -out public.pem")
            }
            Self::Certificate => format!("openssl x509 -inform {form} -in {file} -pubkey -noout > public.pem"),
            Self::PrivateKey => format!("openssl pkey -inform {form} -in {file} -pubout -out public.pem"),
        }
    }
}

/// Returns the path as a word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
