//! The fields of a SentencePiece model that say how text is split.

use std::collections::HashSet;

use super::BLANK;
use super::message::{Field, Fields, malformed};
use crate::VocabularyError;
use crate::limits::{PIECE_BYTES_MAX, ROWS_MAX};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unigram,
    Bpe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceType,
}

impl Piece {
    /// Whether it is found by merging or by its score. A piece that a user defined is found before that, as it stands; but
    /// where there are blanks in it, it stands for what the text becomes, and is then the first to be made.
    pub fn is_made(&self) -> bool {
        self.kind == PieceType::Normal || (self.kind == PieceType::UserDefined && self.text.contains(BLANK))
    }
}

#[derive(Debug)]
pub(super) struct SentencePiece {
    pub kind: Kind,
    pub pieces: Vec<Piece>,
    pub unknown: usize,
    pub begin: Option<usize>,
    pub end: Option<usize>,
    /// Whether a blank is put before the text.
    pub adds_blank: bool,
    /// Whether blanks at the ends and runs of blanks are removed.
    pub removes_blanks: bool,
    /// The map of characters that normalization applies, in base64.
    pub charsmap: Option<String>,
}

impl SentencePiece {
    pub fn read(bytes: &[u8]) -> Result<SentencePiece, VocabularyError> {
        let mut pieces = Vec::new();
        let (mut trainer, mut normalizer) = (Trainer::default(), Normalizer::default());
        for field in Fields(bytes) {
            match field? {
                (1, _) if pieces.len() as u64 >= u64::from(ROWS_MAX) => {
                    return Err(malformed(format!("it has more than {ROWS_MAX} pieces")));
                }
                (1, piece) => pieces.push(read_piece(piece.bytes()?)?),
                (2, spec) => trainer = Trainer::read(spec.bytes()?)?,
                (3, spec) => normalizer = Normalizer::read(spec.bytes()?)?,
                _ => {}
            }
        }
        check_distinct(&pieces)?;
        let unknown = pieces.iter().position(|p| p.kind == PieceType::Unknown);
        let unknown = unknown.ok_or_else(|| malformed("it has no piece for the unknown"))?;
        let control = |id: Option<u64>, name: &str| {
            let by_id = id.and_then(|id| usize::try_from(id).ok());
            let by_id = by_id.filter(|id| pieces.get(*id).is_some_and(|p| p.kind == PieceType::Control));
            by_id.or_else(|| pieces.iter().position(|p| p.kind == PieceType::Control && p.text == name))
        };
        Ok(SentencePiece {
            kind: trainer.kind()?,
            begin: control(trainer.begin, "<s>"),
            end: control(trainer.end, "</s>"),
            unknown,
            adds_blank: normalizer.adds_blank,
            removes_blanks: normalizer.removes_blanks,
            charsmap: Some(normalizer.charsmap).filter(|map| !map.is_empty()),
            pieces,
        })
    }

    pub fn has_bytes(&self) -> bool {
        self.pieces.iter().any(|p| p.kind == PieceType::Byte)
    }

    /// Whether a piece goes on behind a blank.
    pub fn crosses_blanks(&self) -> bool {
        self.pieces
            .iter()
            .any(|p| p.is_made() && p.text.char_indices().skip(1).any(|(at, _)| p.text[at..].starts_with(BLANK)))
    }
}

/// A piece that occurs twice would have two ids.
fn check_distinct(pieces: &[Piece]) -> Result<(), VocabularyError> {
    let mut seen = HashSet::with_capacity(pieces.len());
    match pieces.iter().find(|p| !seen.insert(p.text.as_str())) {
        Some(piece) => Err(malformed(format!("it has the piece {:?} twice", piece.text))),
        None => Ok(()),
    }
}

fn read_piece(bytes: &[u8]) -> Result<Piece, VocabularyError> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceType::Normal };
    for field in Fields(bytes) {
        match field? {
            (1, text) => piece.text = text.text()?.to_owned(),
            (2, score) => piece.score = score.float()?,
            (3, kind) => piece.kind = piece_type(kind.number()?)?,
            _ => {}
        }
    }
    match piece.text.len() {
        0 => Err(malformed("a piece is empty")),
        1..=PIECE_BYTES_MAX if piece.kind == PieceType::UserDefined && piece.is_made() => {
            Ok(Piece { score: 0.0, ..piece })
        }
        1..=PIECE_BYTES_MAX => Ok(piece),
        bytes => Err(malformed(format!("a piece has {bytes} bytes; at most {PIECE_BYTES_MAX} are taken"))),
    }
}

fn piece_type(number: u64) -> Result<PieceType, VocabularyError> {
    Ok(match number {
        1 => PieceType::Normal,
        2 => PieceType::Unknown,
        3 => PieceType::Control,
        4 => PieceType::UserDefined,
        5 => PieceType::Unused,
        6 => PieceType::Byte,
        other => return Err(malformed(format!("piece type {other} is not known"))),
    })
}

#[derive(Default)]
struct Trainer {
    model_type: Option<u64>,
    begin: Option<u64>,
    end: Option<u64>,
}

impl Trainer {
    fn read(bytes: &[u8]) -> Result<Trainer, VocabularyError> {
        let mut trainer = Trainer::default();
        for field in Fields(bytes) {
            match field? {
                (3, kind) => trainer.model_type = Some(kind.number()?),
                (41, id) => trainer.begin = Some(id.number()?),
                (42, id) => trainer.end = Some(id.number()?),
                _ => {}
            }
        }
        Ok(trainer)
    }

    fn kind(&self) -> Result<Kind, VocabularyError> {
        match self.model_type.unwrap_or(1) {
            1 => Ok(Kind::Unigram),
            2 => Ok(Kind::Bpe),
            other => Err(malformed(format!("model type {other} is neither unigram (1) nor BPE (2)"))),
        }
    }
}

struct Normalizer {
    charsmap: String,
    adds_blank: bool,
    removes_blanks: bool,
}

impl Default for Normalizer {
    fn default() -> Normalizer {
        Normalizer { charsmap: String::new(), adds_blank: true, removes_blanks: true }
    }
}

impl Normalizer {
    fn read(bytes: &[u8]) -> Result<Normalizer, VocabularyError> {
        let mut normalizer = Normalizer::default();
        let flag = |field: Field<'_>| Ok::<bool, VocabularyError>(field.number()? != 0);
        for field in Fields(bytes) {
            match field? {
                (2, map) => normalizer.charsmap = base64(map.bytes()?),
                (3, adds) => normalizer.adds_blank = flag(adds)?,
                (4, removes) => normalizer.removes_blanks = flag(removes)?,
                _ => {}
            }
        }
        Ok(normalizer)
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for digit in 0..4 {
            let value = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { DIGITS[value as usize].into() } else { '=' });
        }
    }
    text
}
