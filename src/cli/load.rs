//! `dockpack load`.

use super::args::LoadArgs;
use super::failure::{Exit, Failure};
use super::run::Place;
use super::ui::Ui;
use crate::error::Error;

pub(super) fn load(_args: &LoadArgs, _place: &Place, _ui: &Ui) -> Result<Exit, Failure> {
    Err(Error::Usage("load is not there yet".to_owned()).into())
}
