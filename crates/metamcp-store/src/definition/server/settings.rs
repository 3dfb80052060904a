//! Reads the settings of a server from its JSON document.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::fields::{FieldErrors, ObjectReader};
use metamcp_config::server::settings::{Keywords, SettingSource};

pub(super) struct SettingsReader<'r, 'a> {
    pub(super) fields: &'r mut ObjectReader<'a>,
    pub(super) errors: &'r mut FieldErrors,
}

impl SettingSource for SettingsReader<'_, '_> {
    fn duration(&mut self, key: &'static str, range: &RangeInclusive<Duration>, value: &mut Duration) {
        *value = self.fields.duration(key, range, self.errors).unwrap_or(*value);
    }

    fn count(&mut self, key: &'static str, range: &RangeInclusive<usize>, value: &mut usize) {
        *value = self.fields.count(key, range, self.errors).unwrap_or(*value);
    }

    fn keyword<T: Copy>(&mut self, key: &'static str, keywords: Keywords<T>, value: &mut T) {
        *value = self.fields.keyword(key, keywords, self.errors).unwrap_or(*value);
    }

    /// Documents have no flags; see `SettingValues::Flag`.
    fn flag(&mut self, _key: &'static str, _value: &mut bool) {}
}
