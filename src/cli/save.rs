//! `dockpack save`.

use super::args::SaveArgs;
use super::failure::{Exit, Failure};
use super::run::Place;
use super::ui::Ui;
use crate::error::Error;

pub(super) fn save(_args: &SaveArgs, _place: &Place, _ui: &Ui) -> Result<Exit, Failure> {
    Err(Error::Usage("save is not there yet".to_owned()).into())
}
