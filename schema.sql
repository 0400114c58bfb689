-- The contract between a licensing service and `reconcile`. The service owns the database. To make a
-- new one:
--
--     sqlite3 licenses.db < schema.sql
--
-- `reconcile` reads and writes these tables and never creates or alters any. The service may have columns
-- and tables of its own, as long as such columns have defaults; those of Keysat are known (see
-- docs/keysat.md). An invoice whose btcpay_invoice_id begins with 'free-' was free: BTCPay is not asked
-- about it. A service should set the metadata.orderId of its invoices in BTCPay to invoices.id, so that many
-- invoices can be asked for at once.
--
-- Times are ISO 8601 text in UTC: 2026-11-23T20:13:59Z, 2026-11-23T20:13:59.123456+00:00 or
-- 2026-11-23 20:13:59. Durations are seconds, amounts are sats.

CREATE TABLE products (
  id            TEXT PRIMARY KEY NOT NULL,
  slug          TEXT NOT NULL UNIQUE,
  name          TEXT NOT NULL,
  description   TEXT NOT NULL DEFAULT '',
  price_sats    INTEGER NOT NULL DEFAULT 0 CHECK (price_sats >= 0),
  active        INTEGER NOT NULL DEFAULT 1,
  metadata_json TEXT NOT NULL DEFAULT '{}',
  created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  updated_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- What a license of a product grants. A license takes these terms when it is issued: those of the
-- invoice's own policy; failing that, of the product's active policy 'default'; failing that, of its first
-- active policy by name.
CREATE TABLE policies (
  id                TEXT PRIMARY KEY NOT NULL,
  product_id        TEXT NOT NULL REFERENCES products (id),
  name              TEXT NOT NULL,
  slug              TEXT NOT NULL,
  duration_seconds  INTEGER NOT NULL DEFAULT 0 CHECK (duration_seconds >= 0), -- 0: perpetual
  grace_seconds     INTEGER NOT NULL DEFAULT 0,
  max_machines      INTEGER NOT NULL DEFAULT 1,
  is_trial          INTEGER NOT NULL DEFAULT 0,
  entitlements_json TEXT NOT NULL DEFAULT '[]',     -- an array of strings
  metadata_json     TEXT NOT NULL DEFAULT '{}',
  active            INTEGER NOT NULL DEFAULT 1,
  created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  updated_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  UNIQUE (product_id, slug)
);

-- A sale, from the moment the buyer is sent to BTCPay Server's checkout.
CREATE TABLE invoices (
  id                TEXT PRIMARY KEY NOT NULL,
  btcpay_invoice_id TEXT NOT NULL UNIQUE,
  product_id        TEXT NOT NULL REFERENCES products (id),
  policy_id         TEXT REFERENCES policies (id),  -- NULL: the product's own choice, see policies
  status            TEXT NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'settled', 'expired', 'invalid')),
  buyer_email       TEXT,
  buyer_note        TEXT,
  amount_sats       INTEGER NOT NULL,
  checkout_url      TEXT NOT NULL DEFAULT '',
  created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  updated_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- Every run lists the pending invoices, and those settled within --max-age-hours.
CREATE INDEX invoices_status_created ON invoices (status, created_at);

-- An invoice whose creation time cannot be read is reported, however old it is.
CREATE INDEX invoices_created_unreadable ON invoices (status)
  WHERE (created_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9][T ]*') IS NOT TRUE;

-- The service derives the signed key that the buyer sees from this row.
CREATE TABLE licenses (
  id                TEXT PRIMARY KEY NOT NULL,
  product_id        TEXT NOT NULL REFERENCES products (id),
  invoice_id        TEXT UNIQUE REFERENCES invoices (id), -- one per sale; NULL: a gift, or by hand
  policy_id         TEXT REFERENCES policies (id),
  status            TEXT NOT NULL DEFAULT 'active'
                    CHECK (status IN ('active', 'suspended', 'revoked')),
  fingerprint       TEXT,
  bound_identity    TEXT,
  issued_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  expires_at        TEXT,                           -- NULL: perpetual
  grace_seconds     INTEGER NOT NULL DEFAULT 0,
  max_machines      INTEGER NOT NULL DEFAULT 1,
  entitlements_json TEXT NOT NULL DEFAULT '[]',
  is_trial          INTEGER NOT NULL DEFAULT 0,
  buyer_email       TEXT,
  revoked_at        TEXT,
  revocation_reason TEXT,
  suspended_at      TEXT,
  suspension_reason TEXT,
  metadata_json     TEXT NOT NULL DEFAULT '{}'      -- here {"source":"reconcile",…} tells who issued it
);

-- Whether a lost license has been replaced by hand.
CREATE INDEX licenses_without_invoice ON licenses (buyer_email COLLATE NOCASE)
  WHERE invoice_id IS NULL;

CREATE TABLE discount_codes (
  id                    TEXT PRIMARY KEY NOT NULL,
  code                  TEXT NOT NULL UNIQUE,
  kind                  TEXT NOT NULL CHECK (kind IN ('percent', 'fixed_sats', 'free_license')),
  amount                INTEGER NOT NULL DEFAULT 0,
  max_uses              INTEGER,                    -- NULL: no cap
  used_count            INTEGER NOT NULL DEFAULT 0 CHECK (used_count >= 0), -- pending + redeemed
  expires_at            TEXT,
  applies_to_product_id TEXT REFERENCES products (id),
  applies_to_policy_id  TEXT REFERENCES policies (id),
  description           TEXT NOT NULL DEFAULT '',
  active                INTEGER NOT NULL DEFAULT 1,
  created_at            TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  updated_at            TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- A code used on an invoice. It takes one of the code's slots from the start, is redeemed when the invoice
-- settles, and gives the slot back when it is cancelled.
CREATE TABLE discount_redemptions (
  id                    TEXT PRIMARY KEY NOT NULL,
  code_id               TEXT NOT NULL REFERENCES discount_codes (id),
  invoice_id            TEXT NOT NULL UNIQUE REFERENCES invoices (id),
  license_id            TEXT REFERENCES licenses (id),
  status                TEXT NOT NULL DEFAULT 'pending'
                        CHECK (status IN ('pending', 'redeemed', 'cancelled')),
  discount_applied_sats INTEGER NOT NULL DEFAULT 0,
  base_price_sats       INTEGER NOT NULL DEFAULT 0,
  final_price_sats      INTEGER NOT NULL DEFAULT 0,
  created_at            TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  updated_at            TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- Redemptions whose invoice may have been closed or settled without them.
CREATE INDEX discount_redemptions_pending ON discount_redemptions (invoice_id)
  WHERE status = 'pending';

-- Who changed what. `reconcile` writes rows with actor_kind 'reconcile'. Their actions are invoice.settled,
-- invoice.expired, invoice.invalid, license.issued (decided_by 'person' with --issue),
-- redemption.redeemed, redemption.cancelled and sale.completed; details_json has invoice_id,
-- btcpay_invoice_id, and the invoice's status before and after (from, to). What needs a person is recorded
-- here too: attention.noted (reason, amounts), attention.reminded, attention.resolved and
-- attention.acknowledged (what was accepted). Never delete rows of these kinds.
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
  occurred_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- Finds what was noted without reading the whole log.
CREATE INDEX audit_log_action ON audit_log (action, actor_kind);
