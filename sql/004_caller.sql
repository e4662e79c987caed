-- The rule of who may act, and the guard of a prepared statement, as conditions of one row that is there or not: as a
-- union of two tables they took a third of the database's time for a read.

-- The principal of either kind: a token of ours belongs to a session, one of Better Auth to none. `statement` is the text
-- that the server means to run, null where it runs a statement without a name. A pooler that keeps no names apart may
-- run another process's statement of the same name: that fails here, and nothing of it is done.
create or replace function caller(statement text, subject text, caller_session uuid) returns table (id text)
language sql stable
begin atomic
    select subject
    where case
        when statement is not null and statement <> current_query() then refuse_statement() -- S34
        when caller_session is not null then exists (select from local_caller(subject, caller_session))
        else exists (select from external_caller(subject))
    end;
end;
