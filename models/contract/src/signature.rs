//! Who vouches for a bundle: `manifest.minisig` is a minisign signature over the bytes of `manifest.json`,
//! and the manifest names the digest of every other file. Checked before anything of it is parsed.

use minisign_verify::{Error, PublicKey, Signature};

/// Beside the manifest.
pub const SIGNATURE: &str = "manifest.minisig";

/// Keys of those whose bundles are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<PublicKey>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no minisign public key; copy the second line of the .pub file that \
     `trainer bundle keygen` or `minisign -G` wrote"
)]
pub struct KeyError {
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("is no minisign signature; sign the bundle again with `trainer bundle sign`")]
    Form,
    #[error(
        "is a signature of minisign's old kind, without a hash; sign the bundle again with \
         `trainer bundle sign`"
    )]
    Legacy,
    #[error(
        "was made with a key that is not trusted here; sign the bundle with a trusted key, or add \
         the signer's to `models.trusted_keys`"
    )]
    UnknownKey,
    #[error(
        "does not belong to this manifest.json, one of the two was changed; copy the bundle again"
    )]
    Wrong,
}

impl TrustedKeys {
    /// From the base64 lines of `.pub` files.
    pub fn parse<T: AsRef<str>>(lines: &[T]) -> Result<Self, KeyError> {
        let parse = |line: &T| {
            let text = line.as_ref().trim();
            PublicKey::from_base64(text).map_err(|_| KeyError {
                text: text.to_owned(),
            })
        };
        lines.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Did the holder of one of the keys sign these bytes? `signature`: content of [`SIGNATURE`].
    pub fn verify(&self, signed: &[u8], signature: &str) -> Result<(), SignatureError> {
        let signature = Signature::decode(signature).map_err(|_| SignatureError::Form)?;
        for key in &self.0 {
            return match key.verify(signed, &signature, false) {
                Err(Error::UnexpectedKeyId) => continue,
                Err(Error::UnexpectedAlgorithm) => Err(SignatureError::Legacy),
                Err(_) => Err(SignatureError::Wrong),
                Ok(()) => Ok(()),
            };
        }
        Err(SignatureError::UnknownKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // From the documentation of minisign-verify, made with minisign itself; the text is "test".
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE_OF_TEST: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==";

    #[test]
    fn what_the_tool_signed_is_accepted_and_nothing_else() {
        let keys = TrustedKeys::parse(&[KEY]).unwrap();
        assert_eq!(keys.verify(b"test", SIGNATURE_OF_TEST), Ok(()));
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(keys.verify(b"Test", SIGNATURE_OF_TEST), wrong);
        let comment = SIGNATURE_OF_TEST.replace("file:test", "file:tesu");
        assert_eq!(keys.verify(b"test", &comment), wrong);
        let unknown = Err(SignatureError::UnknownKey);
        assert_eq!(
            TrustedKeys::default().verify(b"test", SIGNATURE_OF_TEST),
            unknown
        );
        let legacy = SIGNATURE_OF_TEST.replace("RUQf", "RWQf");
        assert_eq!(keys.verify(b"test", &legacy), Err(SignatureError::Legacy));
        assert_eq!(keys.verify(b"test", "x"), Err(SignatureError::Form));
    }

    #[test]
    fn a_key_that_is_none_is_named() {
        let error = TrustedKeys::parse(&[KEY, "minisign.pub"]).unwrap_err();
        assert!(error.to_string().starts_with("`minisign.pub` is no"));
    }
}
