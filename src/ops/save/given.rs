//! What comes from the threads that read a store, as the parts of layers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use sha2::Digest as _;

use crate::error::{Error, Result};
use crate::id::{DiffId, Sha256};
use crate::model::LayerRecord;
use crate::transfer::{self, Blame, Content, Part, Taken};

use super::read::Piece;
use super::source::StoreSource;

/// The parts of layers, one after the other.
pub(super) struct Incoming<'a> {
    source: &'a StoreSource,
    pieces: Receiver<Result<Piece<'a>>>,
    /// Buffers that were read go back to be filled again.
    spare: Sender<Vec<u8>>,
    /// Those that whoever takes the part may still look at.
    lent: VecDeque<Arc<Vec<u8>>>,
    layer: Option<&'a LayerRecord>,
    part: Option<Part>,
    length: u64,
    is_at_end: bool,
    /// What is left of the current piece.
    current: transfer::Piece,
    digest: Option<sha2::Sha256>,
    /// Why reading failed.
    failed: RefCell<Option<Error>>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(source: &'a StoreSource, pieces: Receiver<Result<Piece<'a>>>, spare: Sender<Vec<u8>>) -> Self {
        Self {
            source,
            pieces,
            spare,
            lent: VecDeque::new(),
            layer: None,
            part: None,
            length: 0,
            is_at_end: true,
            current: transfer::Piece::default(),
            digest: None,
            failed: RefCell::default(),
        }
    }

    /// Goes on to the next part. `None` behind the last one.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>> {
        while let Ok(piece) = self.pieces.recv() {
            if let Piece::Part { part, layer, length } = piece? {
                (self.part, self.layer, self.length) = (Some(part), Some(layer), length);
                (self.is_at_end, self.current) = (false, transfer::Piece::default());
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Begins to give the part: a tar is digested here, where nobody else does it.
    pub(super) fn take(&mut self, is_digested: bool) {
        let is_tar = self.tar().is_some();
        self.digest = (is_tar && !is_digested).then(sha2::Sha256::new);
    }

    /// Looks what became of the part.
    pub(super) fn settle(&mut self, taken: Taken) -> Result<()> {
        match (self.tar(), taken) {
            (Some(diff), Taken::Digested(digest)) => self.prove(diff, digest),
            (_, Taken::Again) => Err(self.bad("it cannot be read twice".to_owned())),
            _ => Ok(()),
        }
    }

    fn tar(&self) -> Option<DiffId> {
        match self.part {
            Some(Part::Tar(diff)) => Some(diff),
            _ => None,
        }
    }

    fn prove(&self, diff: DiffId, digest: Sha256) -> Result<()> {
        match self.layer {
            Some(layer) if digest != diff.0 => Err(self
                .source
                .users
                .error(layer.chain, format!("its tar has the digest {digest}, not its diff ID {diff}"))),
            _ => Ok(()),
        }
    }

    /// Takes back the buffers that nobody looks at any more.
    fn take_back(&mut self) {
        while let Some(buffer) = self.lent.pop_front() {
            match Arc::try_unwrap(buffer) {
                // Nobody wants it when all is read.
                Ok(buffer) => drop(self.spare.send(buffer)),
                Err(used) => return self.lent.push_front(used),
            }
        }
    }
}

impl Content for Incoming<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn next_piece(&mut self) -> io::Result<transfer::Piece> {
        self.take_back();
        if self.is_at_end {
            return Ok(transfer::Piece::default());
        }
        match self.pieces.recv() {
            Ok(Ok(Piece::Bytes(bytes))) => {
                if let Some(digest) = &mut self.digest {
                    digest.update(&bytes);
                }
                let bytes = Arc::new(bytes);
                let piece = transfer::Piece::of(&bytes, 0..bytes.len());
                self.lent.push_back(bytes);
                Ok(piece)
            }
            Ok(Ok(Piece::Part { .. } | Piece::End)) => {
                self.is_at_end = true;
                Ok(transfer::Piece::default())
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                *self.failed.borrow_mut() = Some(error);
                Err(io::Error::other(text))
            }
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn pass_over(&mut self) {
        self.digest = None;
    }

    fn finish(&mut self) -> Result<()> {
        loop {
            let piece = self.next_piece().map_err(|error| self.read_failed(&error))?;
            if piece.as_ref().is_empty() {
                break;
            }
        }
        match (self.tar(), self.digest.take()) {
            (Some(diff), Some(digest)) => self.prove(diff, Sha256::finish(digest)),
            _ => Ok(()),
        }
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.as_ref().is_empty() {
            self.current = self.next_piece()?;
        }
        self.current.read(buffer)
    }
}

impl Blame for Incoming<'_> {
    fn bad(&self, reason: String) -> Error {
        self.source.bad(reason)
    }

    fn read_failed(&self, error: &io::Error) -> Error {
        self.failed.borrow_mut().take().unwrap_or_else(|| self.source.read_failed(error))
    }
}
