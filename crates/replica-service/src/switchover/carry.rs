use super::{
    ddl::{MIRROR, NO_TRUNCATE, WATCH},
    rows::{literal, quote},
    step_error::StepError,
    tables::Relation,
    work::Work,
};

/// What belongs to the name of a table and so must follow it to the other one: statements for after the renaming.
///
/// What cannot follow is refused, each by its name: it would go on to mean the old table without a word.
pub(super) struct Carry {
    pub statements: Vec<String>,
}

impl Carry {
    /// Looks at `from`, which has the name now, and `to`, which will have it. Called under the lock of both.
    pub(super) async fn plan(
        work: &Work,
        key: &str,
        from: &Relation,
        to: &Relation,
    ) -> Result<Self, StepError> {
        let refused = obstacles(work, from, to).await?;
        if !refused.is_empty() {
            return Err(StepError::Refused(refused));
        }
        let mut statements = grants(work, from).await?;
        statements.extend(defaults(work, key, from, to).await?);
        statements.extend(views(work, from).await?);
        Ok(Self { statements })
    }
}

/// Everything that cannot be carried over, in words.
async fn obstacles(work: &Work, from: &Relation, to: &Relation) -> Result<Vec<String>, StepError> {
    let (old, new) = (from.oid, to.oid);
    let constraints = |kind: &str, what: &str| {
        format!(
            "SELECT '{what} ' || conname || ' is not on the other table' FROM pg_constraint AS a WHERE conrelid = {old} \
             AND contype = '{kind}' AND NOT EXISTS (SELECT FROM pg_constraint AS b WHERE b.conrelid = {new} \
             AND b.contype = a.contype AND pg_get_constraintdef(b.oid) = pg_get_constraintdef(a.oid))"
        )
    };
    let sql = format!(
        "SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass || ' points here and cannot follow: only the key \
           together with the time is unique there' \
           FROM pg_constraint WHERE confrelid = {old} AND contype = 'f' AND conparentid = 0 \
         UNION ALL {} UNION ALL {} \
         UNION ALL SELECT CASE c.relkind WHEN 'm' THEN 'materialized view ' ELSE 'rule of ' END || c.oid::regclass || \
           ' would keep to the old table' \
           FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS c ON c.oid = r.ev_class \
           WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {old} \
             AND (c.relkind <> 'v' OR c.oid = {old}) GROUP BY c.oid, c.relkind \
         UNION ALL SELECT 'function ' || objid::regprocedure || ' would keep to the old table' FROM pg_depend \
           WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = {old} \
         UNION ALL SELECT 'trigger ' || tgname || ' is not on the other table' FROM pg_trigger AS a \
           WHERE tgrelid = {old} AND NOT tgisinternal AND tgname NOT IN ('{MIRROR}', '{NO_TRUNCATE}', '{WATCH}') \
             AND NOT EXISTS (SELECT FROM pg_trigger AS b WHERE b.tgrelid = {new} AND b.tgname = a.tgname) \
         UNION ALL SELECT 'row security is on for the one table only' FROM pg_class AS a, pg_class AS b \
           WHERE a.oid = {old} AND b.oid = {new} AND (a.relrowsecurity, a.relforcerowsecurity) <> (b.relrowsecurity, b.relforcerowsecurity) \
         UNION ALL SELECT 'policy ' || polname || ' is not on the other table' FROM pg_policy AS a WHERE polrelid = {old} \
           AND NOT EXISTS (SELECT FROM pg_policy AS b WHERE b.polrelid = {new} AND b.polname = a.polname) \
         UNION ALL SELECT 'publication ' || p.pubname || ' has the one table only' FROM pg_publication_rel AS a \
           JOIN pg_publication AS p ON p.oid = a.prpubid WHERE a.prrelid = {old} \
           AND NOT EXISTS (SELECT FROM pg_publication_rel AS b WHERE b.prrelid = {new} AND b.prpubid = a.prpubid) \
         UNION ALL SELECT 'privileges on column ' || attname || ' cannot follow' FROM pg_attribute \
           WHERE attrelid = {old} AND attacl IS NOT NULL AND NOT attisdropped",
        constraints("f", "foreign key"),
        constraints("c", "check")
    );
    let mut refused = work.texts("look at what belongs to the tables", &sql).await?;
    if from.schema != to.schema {
        refused.push(format!("the tables are in different schemas, {} and {}", from.schema, to.schema));
    }
    if from.owner != to.owner {
        refused.push(format!("the tables have different owners, {} and {}", from.owner, to.owner));
    }
    Ok(refused)
}

async fn grants(work: &Work, from: &Relation) -> Result<Vec<String>, StepError> {
    // The other table will have the name by then.
    let sql = format!(
        "SELECT 'GRANT ' || privilege_type || ' ON ' || {} || ' TO ' || \
           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END || \
           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END \
         FROM pg_class AS c, aclexplode(c.relacl) WHERE c.oid = {} AND grantee <> c.relowner",
        literal(&from.quoted()),
        from.oid
    );
    work.texts("read the privileges", &sql).await
}

/// Defaults of the one that has the name; the key goes on where it is, so that no id comes twice.
///
/// A sequence that belongs to an identity cannot be given away: the other table draws from it too, and it stays with the
/// table that was renamed.
async fn defaults(work: &Work, key: &str, from: &Relation, to: &Relation) -> Result<Vec<String>, StepError> {
    let name = from.quoted();
    let sql = format!(
        "SELECT a.attname, \
           CASE WHEN a.attidentity <> '' THEN format('nextval(%L::regclass)', pg_get_serial_sequence({old}::regclass::text, a.attname)) \
                ELSE pg_get_expr(d.adbin, d.adrelid) END, \
           pg_get_expr(e.adbin, e.adrelid), \
           CASE WHEN b.attidentity <> '' THEN pg_get_serial_sequence({new}::regclass::text, b.attname) END, \
           CASE WHEN a.attidentity = '' THEN pg_get_serial_sequence({old}::regclass::text, a.attname) END \
         FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         JOIN pg_attribute AS b ON b.attrelid = {new} AND b.attname = a.attname AND NOT b.attisdropped \
         LEFT JOIN pg_attrdef AS e ON e.adrelid = b.attrelid AND e.adnum = b.attnum \
         WHERE a.attrelid = {old} AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        old = from.oid,
        new = to.oid
    );
    let mut statements = Vec::new();
    for row in work.rows("read the defaults", &sql).await? {
        let [Some(column), of_old, of_new, identity, owned] = &row[..] else {
            return Err(StepError::Unreadable { doing: "read the defaults" });
        };
        let quoted = quote(column);
        if let Some(sequence) = identity {
            if column == key {
                statements.push(format!(
                    "SELECT setval({0}, GREATEST(nextval({0}), (SELECT COALESCE(max({quoted}), 0) FROM {name}) + 1), false)",
                    literal(sequence)
                ));
            }
        } else if of_old != of_new {
            statements.push(match of_old {
                Some(default) => format!("ALTER TABLE {name} ALTER {quoted} SET DEFAULT {default}"),
                None => format!("ALTER TABLE {name} ALTER {quoted} DROP DEFAULT"),
            });
        }
        if let Some(sequence) = owned {
            statements.push(format!("ALTER SEQUENCE {sequence} OWNED BY {name}.{quoted}"));
        }
    }
    Ok(statements)
}

/// Views follow the table by its identity: told again, they find the new one by the name.
async fn views(work: &Work, from: &Relation) -> Result<Vec<String>, StepError> {
    let sql = format!(
        "SELECT DISTINCT format('CREATE OR REPLACE VIEW %s %s AS %s', c.oid::regclass, \
           CASE WHEN c.reloptions IS NULL THEN '' ELSE 'WITH (' || array_to_string(c.reloptions, ', ') || ')' END, \
           pg_get_viewdef(c.oid)) \
         FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS c ON c.oid = r.ev_class \
         WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {} \
           AND c.relkind = 'v'",
        from.oid
    );
    work.texts("read the views", &sql).await
}
