export * from "uplot";
import made from "uplot";
export default made;
