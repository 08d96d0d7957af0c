package pg

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sluice/pkg/fault"
)

// Classify gives a database error its class: what depends on the moment is
// Transient, what depends on the values is Permanent, and what says that our
// SQL, our schema or our rights are wrong is Fatal. Errors that already have a
// class other than Transient, and those without a SQLSTATE, stay as they are.
func Classify(err error) error {
	if err == nil || fault.ClassOf(err) != fault.Transient {
		return err
	}
	if _, ok := errors.AsType[pgx.ScanArgError](err); ok {
		return fault.As(fault.Fatal, err)
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	return fault.As(ClassOf(pgErr.Code), err)
}

// byCode are the SQLSTATEs that differ from their class of two characters.
var byCode = map[string]fault.Class{
	"25006": fault.Transient, // read_only_sql_transaction: a failover is under way
	"25P02": fault.Transient, // in_failed_sql_transaction: an earlier error counts
	"26000": fault.Transient, // invalid_sql_statement_name: a pooler or failover lost it
	"55P03": fault.Transient, // lock_not_available
	"40002": fault.Permanent, // transaction_integrity_constraint_violation
	"42P05": fault.Transient, // duplicate_prepared_statement: a pooler shares the session
	"57P04": fault.Fatal,     // database_dropped
}

// byClass are the classes of SQLSTATE with a meaning of their own; any other is
// Transient, for a retry is harmless and a park is not.
var byClass = map[string]fault.Class{
	"0A": fault.Fatal,     // feature_not_supported
	"21": fault.Permanent, // cardinality_violation: a smaller batch may pass
	"22": fault.Permanent, // data exception
	"23": fault.Permanent, // integrity constraint
	"28": fault.Fatal,     // invalid authorization
	"3D": fault.Fatal,     // no such database
	"3F": fault.Fatal,     // no such schema
	"42": fault.Fatal,     // syntax, missing table or column, missing right
	"44": fault.Permanent, // with check option
	"54": fault.Permanent, // program limit: a value too large for an index
	"P0": fault.Permanent, // raised by a function or trigger on these values
}

// ClassOf is the class of a SQLSTATE.
func ClassOf(sqlstate string) fault.Class {
	if c, ok := byCode[sqlstate]; ok {
		return c
	}
	if len(sqlstate) != 5 {
		return fault.Transient
	}
	return byClass[sqlstate[:2]]
}

// State is the SQLSTATE of an error, "" when it has none.
func State(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// elsewhere are the SQLSTATEs, or their classes, that no value of a statement
// brings about: the way to the server, its limits, its operator, another
// transaction. Not among them: out_of_memory (53200), which a smaller statement
// may avoid, a statement that was too slow (57014), and a server that crashed
// (57P02).
var elsewhere = map[string]bool{
	"08": true, "58": true, "40": true,
	"25006": true, "26000": true, "42P05": true,
	"53000": true, "53100": true, "53300": true, "53400": true,
	"55P03": true, "57P01": true, "57P03": true, "57P05": true,
}

// Elsewhere says that err has its cause outside the statement and its values:
// the same will work once the trouble is over, and nothing is gained by trying
// a part of it.
func Elsewhere(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	code := State(err)
	if len(code) != 5 || ClassOf(code) != fault.Transient {
		return false
	}
	return elsewhere[code] || elsewhere[code[:2]]
}
