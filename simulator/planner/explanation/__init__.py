"""Why a deployment is as it is: what binds, what requests wait for, what changes would do."""
