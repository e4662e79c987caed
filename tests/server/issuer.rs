//! A Better Auth made for tests: keys of each algorithm, tokens with any header and claims, and a server of the key set
//! that counts, rotates, fails, redirects, floods and hangs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use latchkey::better_auth::External;
use latchkey::config::{BetterAuth, Secret, TokenPolicy};
use latchkey::token::{self, Keys};
use serde_json::{Value, json};

use crate::support::strong_secret;

/// The id of a user, as Better Auth makes them.
pub const SUBJECT: &str = "Zq3xkJ0Vb8nD5TfWmR7yLcA1sGhE2uPo";

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of these parts as they are, signed by this function of `header.claims`.
pub fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64url(header), base64url(claims));
    let signature = base64url(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// HMAC with SHA-256.
pub fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(&'static RsaKeyPair, &'static dyn signature::RsaEncoding),
}

/// A key pair with the one algorithm that it is published for.
pub struct SigningKey {
    pub kid: String,
    pub alg: &'static str,
    pair: Pair,
}

impl SigningKey {
    /// # Panics
    /// Where the algorithm is none of the four.
    pub fn new(alg: &'static str, kid: &str) -> Self {
        let pair = match alg {
            "EdDSA" => Pair::Ed25519(Ed25519KeyPair::generate().unwrap()),
            "ES256" => Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "RS256" => Pair::Rsa(rsa(), &signature::RSA_PKCS1_SHA256),
            "PS256" => Pair::Rsa(rsa(), &signature::RSA_PSS_SHA256),
            _ => panic!("{alg}"),
        };
        Self { kid: kid.to_owned(), alg, pair }
    }

    /// One of each.
    pub fn of_each_kind() -> Vec<Self> {
        ["EdDSA", "ES256", "RS256", "PS256"].map(|alg| Self::new(alg, &format!("key-{alg}"))).into()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token as Better Auth makes it.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.alg, "kid": self.kid}), claims)
    }

    /// A token with this header, signed with this key whatever the header says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        signed(&header.to_string(), &claims.to_string(), |message| self.sign(message))
    }

    /// The public half, as it is published.
    pub fn jwk(&self) -> Value {
        let (alg, kid) = (self.alg, &self.kid);
        match &self.pair {
            Pair::Ed25519(pair) => {
                json!({"alg": alg, "crv": "Ed25519", "x": base64url(pair.public_key()), "kty": "OKP", "kid": kid})
            }
            Pair::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"alg": alg, "crv": "P-256", "x": base64url(x), "y": base64url(y), "kty": "EC", "kid": kid})
            }
            Pair::Rsa(pair, _) => {
                let n = pair.public_key().modulus().big_endian_without_leading_zero();
                json!({"alg": alg, "n": base64url(n), "e": "AQAB", "kty": "RSA", "kid": kid})
            }
        }
    }

    /// The public half in DER (SubjectPublicKeyInfo).
    pub fn der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Pair::P256(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Pair::Rsa(pair, _) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    /// The public half as bytes without any wrapping.
    pub fn raw(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Pair::P256(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Rsa(pair, _) => pair.public_key().as_ref().to_vec(),
        }
    }
}

/// Made once: making one takes long.
fn rsa() -> &'static RsaKeyPair {
    static PAIR: OnceLock<RsaKeyPair> = OnceLock::new();
    PAIR.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

/// A base64url text of random bytes.
pub fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).unwrap();
    base64url(random)
}

/// What the server does with a request.
#[derive(Clone)]
pub enum Behaviour {
    Publish(String),
    Status(u16),
    Redirect(String),
    Flood,
    Drip,
    Hang,
}

/// A server of one key set.
pub struct Issuer {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    behaviour: Mutex<Behaviour>,
    fetches: AtomicUsize,
    sent_bytes: AtomicUsize,
}

impl Issuer {
    /// Publishes these keys until told otherwise.
    pub fn start(keys: &[SigningKey]) -> Self {
        let issuer = Self::doing(Behaviour::Status(500));
        issuer.publish(keys);
        issuer
    }

    pub fn doing(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (fetches, sent_bytes) = Default::default();
        let state = Arc::new(State { behaviour: Mutex::new(behaviour), fetches, sent_bytes });
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                thread::spawn(move || state.answer(stream));
            }
        });
        Self { address, state }
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    pub fn publish(&self, keys: &[SigningKey]) {
        self.set(Behaviour::Publish(json!({"keys": keys.iter().map(SigningKey::jwk).collect::<Vec<_>>()}).to_string()));
    }

    pub fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// Bytes of bodies that the other side took.
    pub fn sent_bytes(&self) -> usize {
        self.state.sent_bytes.load(Ordering::SeqCst)
    }

    /// The claims that its tokens carry by default, as Better Auth writes them.
    pub fn claims(&self, subject: &str) -> Value {
        json!({
            "iat": now(), "name": "Ada", "email": "ada@example.org", "emailVerified": false, "image": null,
            "createdAt": "2026-11-20T08:15:30.123Z", "updatedAt": "2026-11-20T08:15:30.123Z", "id": subject,
            "sub": subject, "exp": now() + 900, "iss": self.origin(), "aud": self.origin(),
        })
    }
}

impl State {
    fn answer(&self, mut stream: std::net::TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            head.push(byte[0]);
        }
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let behaviour = self.behaviour.lock().unwrap().clone();
        let mut send = |bytes: &[u8]| {
            let sent = stream.write_all(bytes);
            self.sent_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
            sent
        };
        let _ = match behaviour {
            Behaviour::Publish(body) => {
                send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
            }
            Behaviour::Status(status) => {
                send(format!("HTTP/1.1 {status} X\r\nContent-Length: 11\r\n\r\n{{\"keys\":[]}}").as_bytes())
            }
            Behaviour::Redirect(to) => {
                send(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").as_bytes())
            }
            Behaviour::Flood => {
                let piece = [b' '; 16 * 1024];
                let head = send(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n");
                head.and_then(|()| (0..640).try_for_each(|_| send(&piece)))
            }
            Behaviour::Drip => {
                let head = send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
                head.and_then(|()| {
                    (0..1000).try_for_each(|_| {
                        thread::sleep(Duration::from_millis(100));
                        send(b" ")
                    })
                })
            }
            Behaviour::Hang => {
                thread::sleep(Duration::from_secs(60));
                Ok(())
            }
        };
    }
}

/// The library's verification, with keys of its own and these of a Better Auth.
pub struct Verifier {
    pub keys: Keys,
    pub external: External,
}

impl Verifier {
    pub fn new(settings: &BetterAuth) -> Self {
        let policy = TokenPolicy { issuer: "a".into(), audience: "b".into(), access_token_seconds: 900 };
        let secret: Secret = strong_secret().parse().unwrap();
        Self { keys: Keys::derive(&secret, None, policy), external: External::new(settings) }
    }

    /// By the key set of this issuer.
    pub fn published(issuer: &Issuer) -> Self {
        Self::new(&BetterAuth {
            secret: None,
            jwks_url: Some(format!("{}/api/auth/jwks", issuer.origin())),
            issuer: Some(issuer.origin()),
            audience: Some(issuer.origin()),
            is_insecure: false,
        })
    }

    /// By a shared secret, without any name.
    pub fn shared(secret: &str) -> Self {
        let secret = Some(secret.parse().unwrap());
        Self::new(&BetterAuth { secret, jwks_url: None, issuer: None, audience: None, is_insecure: false })
    }

    /// The subject, or the first word of the reason that the log gives.
    pub fn verify(&self, token: &str) -> Result<String, String> {
        let verified = token::verify(token, &self.keys, Some(&self.external));
        let reason = |error: String| error.split(' ').next().unwrap().to_owned();
        let principal = verified.map_err(|error| reason(error.to_string()))?;
        assert!(principal.is_external() == principal.session().is_none());
        Ok(principal.subject().to_owned())
    }

    #[track_caller]
    pub fn takes(&self, what: &str, token: &str) {
        assert_eq!(self.verify(token), Ok(SUBJECT.to_owned()), "{what}");
    }

    #[track_caller]
    pub fn refuses(&self, what: &str, token: &str, why: &str) {
        assert_eq!(self.verify(token), Err(why.to_owned()), "{what}");
    }
}

/// The object with this member set, or without it where the value is `Value::Null` and `name` begins with `-`.
pub fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    match name.strip_prefix('-') {
        Some(name) => drop(object.as_object_mut().unwrap().remove(name)),
        None => object[name] = value,
    }
    object
}
