-- The database of Keysat 0.2.0 (migration 25), as far as the facts about it go: no column has a default
-- that it does not have there, nothing cascades, and times are whatever text was written.

CREATE TABLE merchant_profiles (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL,
  is_default INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_default_profile ON merchant_profiles (is_default) WHERE is_default = 1;

CREATE TABLE payment_providers (
  id                  TEXT PRIMARY KEY,
  merchant_profile_id TEXT NOT NULL REFERENCES merchant_profiles (id),
  kind                TEXT NOT NULL CHECK (kind IN ('btcpay', 'zaprite')),
  label               TEXT NOT NULL,
  api_key             TEXT NOT NULL,
  base_url            TEXT NOT NULL,
  store_id            TEXT,
  webhook_id          TEXT,
  webhook_secret      TEXT,
  connected_at        TEXT NOT NULL,
  UNIQUE (merchant_profile_id, kind)
);

CREATE TABLE products (
  id                  TEXT PRIMARY KEY,
  slug                TEXT NOT NULL UNIQUE,
  name                TEXT NOT NULL,
  price_sats          INTEGER NOT NULL,
  price_currency      TEXT NOT NULL DEFAULT 'SAT',
  price_value         INTEGER NOT NULL DEFAULT 0,
  active              INTEGER NOT NULL DEFAULT 1,
  merchant_profile_id TEXT REFERENCES merchant_profiles (id),
  created_at          TEXT NOT NULL,
  updated_at          TEXT NOT NULL
);

CREATE TABLE policies (
  id                  TEXT PRIMARY KEY,
  product_id          TEXT NOT NULL REFERENCES products (id),
  name                TEXT NOT NULL,
  slug                TEXT NOT NULL,
  duration_seconds    INTEGER NOT NULL DEFAULT 0,
  grace_seconds       INTEGER NOT NULL DEFAULT 0,
  max_machines        INTEGER NOT NULL DEFAULT 1,
  is_trial            INTEGER NOT NULL DEFAULT 0,
  entitlements_json   TEXT NOT NULL DEFAULT '[]',
  active              INTEGER NOT NULL DEFAULT 1,
  archived_at         TEXT,
  is_recurring        INTEGER NOT NULL DEFAULT 0,
  renewal_period_days INTEGER,
  grace_period_days   INTEGER NOT NULL DEFAULT 7,
  trial_days          INTEGER NOT NULL DEFAULT 0,
  tier_rank           INTEGER,
  tip_recipient       TEXT,
  tip_pct_bps         INTEGER NOT NULL DEFAULT 0,
  tip_label           TEXT,
  created_at          TEXT NOT NULL,
  updated_at          TEXT NOT NULL,
  UNIQUE (product_id, slug)
);

CREATE TABLE invoices (
  id                  TEXT PRIMARY KEY,
  btcpay_invoice_id   TEXT NOT NULL UNIQUE,
  product_id          TEXT NOT NULL REFERENCES products (id),
  status              TEXT NOT NULL,
  buyer_email         TEXT,
  buyer_note          TEXT,
  amount_sats         INTEGER NOT NULL,
  checkout_url        TEXT NOT NULL,
  created_at          TEXT NOT NULL,
  updated_at          TEXT NOT NULL,
  policy_id           TEXT REFERENCES policies (id),
  listed_currency     TEXT,
  listed_value        INTEGER,
  payment_provider_id TEXT REFERENCES payment_providers (id)
);
CREATE INDEX invoices_by_status ON invoices (status);

CREATE TABLE licenses (
  id                TEXT PRIMARY KEY,
  product_id        TEXT NOT NULL REFERENCES products (id),
  invoice_id        TEXT UNIQUE REFERENCES invoices (id),
  status            TEXT NOT NULL,
  fingerprint       TEXT,
  bound_identity    TEXT,
  issued_at         TEXT NOT NULL,
  revoked_at        TEXT,
  revocation_reason TEXT,
  metadata_json     TEXT NOT NULL DEFAULT '{}',
  policy_id         TEXT REFERENCES policies (id),
  expires_at        TEXT,
  grace_seconds     INTEGER NOT NULL DEFAULT 0,
  max_machines      INTEGER NOT NULL DEFAULT 1,
  suspended_at      TEXT,
  suspension_reason TEXT,
  entitlements_json TEXT NOT NULL DEFAULT '[]',
  is_trial          INTEGER NOT NULL DEFAULT 0,
  nostr_npub        TEXT,
  buyer_email       TEXT
);

CREATE TABLE discount_codes (
  id          TEXT PRIMARY KEY,
  code        TEXT NOT NULL UNIQUE,
  kind        TEXT NOT NULL CHECK (kind IN ('percent', 'fixed_sats', 'set_price', 'free_license')),
  amount      INTEGER NOT NULL,
  max_uses    INTEGER,
  used_count  INTEGER NOT NULL DEFAULT 0 CHECK (used_count >= 0),
  active      INTEGER NOT NULL DEFAULT 1,
  created_at  TEXT NOT NULL,
  updated_at  TEXT NOT NULL
);

CREATE TABLE discount_redemptions (
  id                    TEXT PRIMARY KEY,
  code_id               TEXT NOT NULL REFERENCES discount_codes (id),
  invoice_id            TEXT NOT NULL UNIQUE REFERENCES invoices (id),
  license_id            TEXT REFERENCES licenses (id),
  status                TEXT NOT NULL CHECK (status IN ('pending', 'redeemed', 'cancelled')),
  discount_applied_sats INTEGER NOT NULL,
  base_price_sats       INTEGER NOT NULL,
  final_price_sats      INTEGER NOT NULL,
  created_at            TEXT NOT NULL,
  updated_at            TEXT NOT NULL
);

CREATE TABLE subscriptions (
  id                      TEXT PRIMARY KEY,
  license_id              TEXT NOT NULL UNIQUE REFERENCES licenses (id),
  policy_id               TEXT NOT NULL REFERENCES policies (id),
  product_id              TEXT NOT NULL REFERENCES products (id),
  period_days             INTEGER NOT NULL CHECK (period_days > 0),
  listed_currency         TEXT NOT NULL,
  listed_value            INTEGER NOT NULL,
  status                  TEXT NOT NULL CHECK (status IN ('active', 'past_due', 'cancelled', 'lapsed')),
  started_at              TEXT NOT NULL,
  next_renewal_at         TEXT,
  cancelled_at            TEXT,
  cancellation_reason     TEXT,
  last_renewal_attempt_at TEXT,
  consecutive_failures    INTEGER NOT NULL DEFAULT 0,
  created_at              TEXT NOT NULL,
  updated_at              TEXT NOT NULL,
  merchant_profile_id     TEXT REFERENCES merchant_profiles (id),
  payment_provider_id     TEXT REFERENCES payment_providers (id)
);

CREATE TABLE subscription_invoices (
  id              TEXT PRIMARY KEY,
  subscription_id TEXT NOT NULL REFERENCES subscriptions (id),
  invoice_id      TEXT NOT NULL REFERENCES invoices (id),
  cycle_number    INTEGER NOT NULL CHECK (cycle_number >= 1),
  cycle_start_at  TEXT NOT NULL,
  cycle_end_at    TEXT NOT NULL,
  created_at      TEXT NOT NULL,
  UNIQUE (subscription_id, cycle_number)
);
CREATE INDEX cycles_by_invoice ON subscription_invoices (invoice_id);

CREATE TABLE tier_changes (
  id                     TEXT PRIMARY KEY,
  license_id             TEXT NOT NULL REFERENCES licenses (id),
  from_policy_id         TEXT NOT NULL REFERENCES policies (id),
  to_policy_id           TEXT NOT NULL REFERENCES policies (id),
  direction              TEXT NOT NULL CHECK (direction IN ('upgrade', 'downgrade')),
  listed_currency        TEXT NOT NULL,
  proration_charge_value INTEGER NOT NULL DEFAULT 0,
  invoice_id             TEXT REFERENCES invoices (id),
  effective_at           TEXT NOT NULL,
  actor                  TEXT NOT NULL CHECK (actor IN ('buyer', 'admin')),
  reason                 TEXT,
  created_at             TEXT NOT NULL
);
CREATE INDEX tier_changes_by_invoice ON tier_changes (invoice_id) WHERE invoice_id IS NOT NULL;

CREATE TABLE audit_log (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  actor_kind   TEXT NOT NULL,
  actor_hash   TEXT,
  action       TEXT NOT NULL,
  target_kind  TEXT,
  target_id    TEXT,
  request_ip   TEXT,
  user_agent   TEXT,
  details_json TEXT NOT NULL DEFAULT '{}',
  occurred_at  TEXT NOT NULL
);
CREATE INDEX audit_by_action ON audit_log (action);

CREATE TABLE webhook_endpoints (
  id          TEXT PRIMARY KEY,
  url         TEXT NOT NULL,
  secret      TEXT NOT NULL,
  event_types TEXT NOT NULL DEFAULT '["*"]',
  active      INTEGER NOT NULL DEFAULT 1
);

CREATE TABLE webhook_deliveries (
  id              TEXT PRIMARY KEY,
  endpoint_id     TEXT NOT NULL REFERENCES webhook_endpoints (id),
  event_type      TEXT NOT NULL,
  payload_json    TEXT NOT NULL,
  attempt_count   INTEGER NOT NULL DEFAULT 0,
  next_attempt_at TEXT,
  delivered_at    TEXT,
  created_at      TEXT NOT NULL
);
