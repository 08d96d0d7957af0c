// Package pg opens PostgreSQL pools with bounded statements, sorts SQLSTATEs
// into error classes, exports pool metrics and runs migrations. It knows no
// table.
package pg
